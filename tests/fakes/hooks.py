"""Where a test steps in: around every effect of a fake."""

from collections.abc import Awaitable, Callable

Hook = Callable[[str, str], Awaitable[None]]
"""Awaited with the operation and the name of what it is done to; what it raises reaches the caller."""


async def nothing_happens(operation: str, name: str) -> None:
    """The hook of a fake that nobody disturbs."""
