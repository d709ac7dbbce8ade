"""The slow comparison of everything with everything: whatever no watch has told of is found in the end."""

import asyncio
from collections.abc import Callable
from typing import Final

from tenant_operator.ports import TenantKey, key_of
from tenant_operator.tenants.memory import TenantMemory
from tenant_operator.tenants.standing import SERVING

_SHORTEST_PAUSE: Final = 0.2
"""Seconds between two tenants: some twenty requests for each."""


class Comparison:
    """Has each tenant that serves compared, one after the other. `wake` has a tenant looked at."""

    def __init__(self, memory: TenantMemory, wake: Callable[[TenantKey], None]) -> None:
        self._memory = memory
        self._wake = wake

    async def run(self, seconds: float) -> None:
        """Once as soon as possible, since much can have happened while nobody looked; then spread over so many seconds
        each time. Until cancelled."""
        await self.once(0.0)
        while True:
            await self.once(seconds)

    async def once(self, seconds: float) -> None:
        """Every tenant that serves now, in so many seconds if they are enough."""
        keys = [key_of(tenant) for tenant in self._memory if tenant.status.state in SERVING]
        pause = max(seconds / len(keys), _SHORTEST_PAUSE) if keys else seconds
        for key in keys:
            self.begin(key)
            await asyncio.sleep(pause)
        if not keys:
            await asyncio.sleep(pause)

    def begin(self, key: TenantKey) -> None:
        """Have the tenant compared now, if it is still there."""
        if (tenant := self._memory.known(key)) is not None:
            self._memory.slot(tenant).tended.is_due = True
            self._wake(key)
