"""Markdown as the forges render it: prose that survives in a table, and the anchor of a heading."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

_CODE: Final = re.compile(r"(`[^`]*`)")


def code(text: object) -> str:
    """Text as it is typed."""
    return f"`{text}`"


def prose(text: str) -> str:
    """Text in one line, in which < and > are no HTML; what stands between backticks is code and left as it is."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace(">", "&gt;") for part in parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, and of nothing if it has no rows."""
    for number, row in enumerate(rows):
        if number == 0:
            yield f"| {' | '.join(head)} |"
            yield "|---" * len(head) + "|"
        cells = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def anchor(heading: str) -> str:
    """What a link to a heading says after #."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
