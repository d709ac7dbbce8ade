"""Text that has to fit."""


def cut(text: str, limit: int) -> str:
    """The text, or as much of its beginning as fits into `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
