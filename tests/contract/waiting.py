"""Waiting for what another program does."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Ask again and again until it holds; TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 (nothing in this process knows when it happens)
            await asyncio.sleep(0.02)
