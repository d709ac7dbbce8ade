"""Brings one Tenant closer to what its API object asks for, whatever woke it: the top of the level-triggered loop."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tenant_operator.api.names import ANNOTATION_ACTION, FINALIZER
from tenant_operator.api.tenant import Tenant
from tenant_operator.audit.backlog import BACKPRESSURE, backlog
from tenant_operator.audit.courier import Courier
from tenant_operator.ports import Clock, TenantKey, TenantStore, WriteRefused
from tenant_operator.saga.errors import Gone, Stale
from tenant_operator.saga.runner import Runner
from tenant_operator.tenants.host import TenantSaga
from tenant_operator.tenants.journal import saga_of
from tenant_operator.tenants.lifecycle import asks_for_nothing, is_unwanted, let_go, take_request
from tenant_operator.tenants.memory import TenantMemory
from tenant_operator.tenants.notices import Happening
from tenant_operator.tenants.recollection import Recollection
from tenant_operator.tenants.standing import standing_of
from tenant_operator.tenants.upkeep import Upkeep
from tenant_operator.tenants.writer import StatusWriter

_SOON = 1.0
_HELD_UP_RECHECK = 60.0
"""The courier wakes a tenant whose events it delivered. This is how often a changed cause may be told."""


class Reconciler:
    """Holds no state of its own. `reconcile` and `take` are what the two work queues call; `forget` is for
    who hears of a deletion."""

    def __init__(
        self,
        host: TenantSaga,
        writer: StatusWriter,
        recollection: Recollection,
        runner: Runner[Tenant],
        upkeep: Upkeep,
        *,
        store: TenantStore,
        memory: TenantMemory,
        courier: Courier,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._host = host
        self._writer = writer
        self._recollection = recollection
        self._runner = runner
        self._upkeep = upkeep
        self._store = store
        self._memory = memory
        self._courier = courier
        self._clock = clock
        self._new_id = new_id

    async def reconcile(self, key: TenantKey, attention: asyncio.Event) -> float | None:
        """Go as far as possible now. Returns the seconds until the next look, None to wait for something to happen."""
        tenant = self._memory.get(key) or await self._store.read(key)
        if tenant is None or not self._host.mine(tenant):
            return None
        try:
            return await self._reconcile(key, tenant, attention)
        except Gone:
            self.forget(key, tenant.metadata.uid)
            return None
        except Stale:
            return 0.0
        except WriteRefused as refused:
            await self._tell_of(refused, tenant)
            raise

    async def _reconcile(self, key: TenantKey, tenant: Tenant, attention: asyncio.Event) -> float | None:
        self._memory.observe(tenant)
        self._courier.hand_over(key, tenant.status.outbox)
        deleting = tenant.metadata.deletion_timestamp is not None
        if FINALIZER not in tenant.metadata.finalizers:
            if deleting:
                return None
            tenant = await self._with_finalizers(tenant, (*tenant.metadata.finalizers, FINALIZER))
        waiting = len(self._courier.undelivered(key, tenant.status.outbox))
        is_full = waiting > BACKPRESSURE
        is_kept = deleting and waiting > 0 and let_go(saga_of(tenant))
        if (is_full or is_kept) and (trouble := self._courier.trouble_of(key)):
            await self._writer.write_backlog(tenant, backlog(trouble, is_full=is_full))
            return _HELD_UP_RECHECK
        if is_full:
            return _SOON
        tenant = await self._writer.write_backlog(tenant, "")
        tenant, again, hindrance = await self._advance(tenant, attention)
        if hindrance:
            return await self._hindered(tenant, hindrance)
        if self._host.is_doubtful(tenant):
            return 0.0  # the status is another one by now
        if self._host.is_misread(tenant):
            tenant = await self._writer.observe(tenant)
        if (standing := standing_of(tenant.status)).hindrance:
            tenant = await self._writer.write_standing(tenant, replace(standing, hindrance=""))
        tenant, pause = await self._upkeep.tend(tenant)
        if again is not None:
            seconds = max(again - self._clock.elapsed(), 0.0)
            return seconds if pause is None else min(seconds, pause)
        if tenant.status.observed_generation != tenant.metadata.generation:
            tenant = await self._writer.observe(tenant)
        if pause is not None:
            return pause
        if len(self._courier.undelivered(key, tenant.status.outbox)) < len(tenant.status.outbox):
            tenant = await self._writer.clear_outbox(tenant)
        if tenant.status.outbox:
            # The courier wakes the key once the sink has more; if it never has, a record that waits to go says so.
            return _SOON if let_go(saga_of(tenant)) else None
        deleting = tenant.metadata.deletion_timestamp is not None
        if deleting and FINALIZER in tenant.metadata.finalizers and let_go(saga_of(tenant)):
            if not await self._host.is_cleared(tenant):
                return 0.0
            left = tuple(each for each in tenant.metadata.finalizers if each != FINALIZER)
            await self._with_finalizers(tenant, left)
        elif asks_for_nothing(tenant):
            self._memory.rest(tenant)
        return None

    async def _advance(self, tenant: Tenant, attention: asyncio.Event) -> tuple[Tenant, float | None, str]:
        """Carry the saga on, with a look at what there is where the status alone must not be believed. Returns the
        tenant, when to look again, and what hinders it."""
        host, recollection, hindrance = self._host, self._recollection, ""
        recollection.forget_hindrance(tenant)
        if asks_for_nothing(tenant):
            return tenant, None, ""
        if host.is_doubtful(tenant):
            hindrance = await host.recall(tenant)
            if hindrance and host.is_running(tenant) and not is_unwanted(tenant):
                return tenant, None, hindrance
        tenant, again = await self._runner.advance(tenant, attention)
        while recollection.is_due(tenant):
            hindrance = await host.recall(tenant)
            tenant, again = await self._runner.advance(tenant, attention)
        return tenant, again, "" if is_unwanted(tenant) else hindrance

    async def _hindered(self, tenant: Tenant, hindrance: str) -> float:
        """Say why nothing is done; a later look may find that it is over."""
        standing = standing_of(tenant.status)
        if standing.hindrance != hindrance:
            happening = Happening("StatusLost", hindrance, warning=True)
            await self._writer.write_standing(tenant, replace(standing, hindrance=hindrance), happening)
        return self._host.recheck_seconds

    def forget(self, key: TenantKey, uid: str) -> None:
        """The Tenant of that UID is gone: nothing of it is kept in memory."""
        if self._memory.forget(key, uid):
            self._courier.cleared(key, ())

    async def take(self, key: TenantKey, attention: asyncio.Event) -> float | None:
        """Take a one-shot request off a tenant's annotation. Apart from `reconcile`, which may be busy, so that a
        cancel is heard at once."""
        attention.clear()
        tenant = self._memory.get(key)
        if tenant is None or ANNOTATION_ACTION not in tenant.metadata.annotations or not self._host.mine(tenant):
            return None
        taken = take_request(tenant, self._new_id(), self._now())
        if taken is None:
            return None
        try:
            self._memory.observe(await self._store.write_metadata(taken))
        except Stale:
            fresh = await self._store.read(key)
            if fresh is None:
                return None
            self._memory.observe(fresh)
            return 0.0
        except WriteRefused as refused:
            await self._tell_of(refused, tenant)
            raise
        return None

    async def _tell_of(self, refused: WriteRefused, tenant: Tenant) -> None:
        """The one thing that the status cannot tell."""
        message = f"nothing can be written down, and so nothing is done: {refused.message}"
        await self._writer.tell(tenant, [Happening("WriteRefused", message, warning=True)])

    async def _with_finalizers(self, tenant: Tenant, finalizers: tuple[str, ...]) -> Tenant:
        metadata = tenant.metadata.model_copy(update={"finalizers": finalizers})
        try:
            stored = await self._store.write_metadata(tenant.model_copy(update={"metadata": metadata}))
        except Stale:
            await self._writer.reread(tenant)
            raise
        self._memory.observe(stored)
        return stored

    def _now(self) -> datetime:
        return self._clock.now()
