"""What this life of the operator has found out about each Tenant, beside what the status tells: held against it before
anything is begun."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.states import RunReason
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.recall import Recalled, former_identity
from tenant_operator.saga.facts import Fact, RunStarted
from tenant_operator.saga.model import Kind, Outcome, Saga
from tenant_operator.tenants.lifecycle import contradicts_service, is_cut_off, is_unwanted, let_go
from tenant_operator.tenants.memory import Mind, TenantMemory


class Recollection:
    """Keeps nothing that a look would not find again: a life that begins knows nothing, and looks."""

    def __init__(self, memory: TenantMemory, new_id: Callable[[], str]) -> None:
        self._memory = memory
        self._new_id = new_id

    def identity(self, record: KnownTenant) -> str:
        """What all things of the tenant are labelled with."""
        return self._mind(record).identity or record.metadata.uid

    def is_confirmed(self, record: Tenant) -> bool:
        """Whether it is sure who the tenant is."""
        return self._mind(record).is_confirmed

    def is_due(self, record: Tenant) -> bool:
        """Whether a run waits for a look at what there is."""
        return self._mind(record).is_due

    def is_doubtful(self, record: Tenant, saga: Saga) -> bool:
        """Whether the status says what was not held against the world yet in this life: that the tenant is who it
        cannot be by its UID, or that it does not serve although it was provisioned once."""
        mind, run = self._mind(record), saga.run
        if former_identity(record) not in (None, mind.looked_for):
            return True
        is_unmade = run is None or (run.kind is Kind.PROVISION and run.outcome is not Outcome.COMPLETED)
        return is_unmade and saga.attempt > 0 and mind.trusted != _run_id(saga)

    def found(self, record: Tenant) -> Recalled | None:
        """The last look, as long as no run has begun by it."""
        return self._mind(record).recalled

    def note(self, record: Tenant, saga: Saga, found: Recalled, *, is_needed: bool) -> None:
        """Take note of a look; it is kept if a run may begin by it."""
        mind = self._mind(record)
        self._memory.adopt(record, found.identity if found.identity != record.metadata.uid else None)
        mind.recalled = found if is_needed or mind.is_due or found.hindrance or found.serves else None
        mind.is_confirmed, mind.is_due, mind.trusted = found.is_confirmed, False, _run_id(saga)
        mind.looked_for = former_identity(record)

    def judge(self, record: Tenant, saga: Saga, asked: Sequence[Fact]) -> Sequence[Fact]:
        """What becomes of what is asked: nothing begins before a look, and what has served is taken over instead of
        being made, or unmade."""
        mind = self._mind(record)
        found = mind.recalled
        if mind.is_leaky and let_go(saga):
            asked = [RunStarted(self._new_id(), Kind.RELEASE, RunReason.DELETED, None)]
        start = next((fact for fact in asked if isinstance(fact, RunStarted)), None)
        if start is None:
            return asked if found is None or is_unwanted(record) else [*asked, *self._put_right(saga, found)]
        if found is None or (start.kind is Kind.PROVISION and not found.for_run):
            mind.is_due = True
            return []
        if start.kind is Kind.RELEASE:
            begun = replace(start, whole=found.holds)
        else:
            begun = self._adoption(found) if found.serves else replace(start, earlier=found.attempt)
        return [begun if fact is start else fact for fact in asked]

    def _put_right(self, saga: Saga, found: Recalled) -> list[RunStarted]:
        """The run that begins, although nobody asks for one, because the journal cannot be true."""
        if found.serves and contradicts_service(saga):
            return [self._adoption(found)]
        if is_cut_off(saga) and found.holds and not found.hindrance:
            return [RunStarted(self._new_id(), Kind.PROVISION, RunReason.CREATED, None, earlier=found.attempt)]
        return []

    def _adoption(self, found: Recalled) -> RunStarted:
        return RunStarted(self._new_id(), Kind.ADOPT, RunReason.ADOPTED, None, earlier=found.attempt)

    def begun(self, record: Tenant, saga: Saga) -> None:
        """A run has begun by what was found."""
        mind = self._mind(record)
        mind.recalled, mind.is_due, mind.is_leaky, mind.trusted = None, False, False, _run_id(saga)

    def completed(self, record: Tenant) -> None:
        """The tenant serves: a journal that tells of the same run as of one on its way is an old one."""
        self._mind(record).trusted = None

    def forget_hindrance(self, record: Tenant) -> None:
        """What was in the way may be no more: it is looked at anew."""
        found = self._mind(record).recalled
        if found is not None and found.hindrance:
            self._memory.adopt(record, None)
            self._memory.slot(record).mind = Mind()

    def is_cleared(self, record: Tenant, saga: Saga) -> bool:
        """Whether nothing was left at the end of the run."""
        return self._mind(record).cleared == _run_id(saga)

    def clear(self, record: Tenant, saga: Saga, *, is_clear: bool) -> None:
        """Note whether something is left at the end of the run."""
        mind = self._mind(record)
        mind.cleared, mind.is_leaky = (_run_id(saga), False) if is_clear else (None, True)

    def _mind(self, record: KnownTenant) -> Mind:
        return self._memory.slot(record).mind


def _run_id(saga: Saga) -> str:
    """The run that the journal tells of; empty for none."""
    return saga.run.id if saga.run is not None else ""
