"""What an activity of the tenant plan is, and what it is given to work with."""

from abc import ABC
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Catalog, Census, Clock, Cluster, Mailer, Prober, Storage
from tenant_operator.provisioning.contents import Contents, contents, digest
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, Progress, RetryPolicy, Undone


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world as the activities see it."""

    cluster: Cluster
    storage: Storage
    mailer: Mailer
    prober: Prober
    catalog: Catalog
    census: Census
    clock: Clock


@dataclass(frozen=True, slots=True)
class Context:
    """Everything one try of an activity may use.

    `heartbeat(detail, progress)` says what is being done now (shown to people, journalled every few seconds; progress
    in percent). `is_awaited()` tells whether it would be now: what costs something to find out need not be said before.
    `checkpoint(name)` journals that a part of the activity is done; `checkpoints` are those of earlier
    tries.
    `plan` and `organization` are None if they no longer exist: a compensation must work without them.
    """

    tenant: Tenant
    plan: Plan | None
    organization: Organization | None
    names: Names
    ports: Ports
    options: Options
    checkpoints: frozenset[str]
    heartbeat: Callable[[str, int | None], None]
    is_awaited: Callable[[], bool]
    checkpoint: Callable[[str], Awaitable[None]]

    def contents(self, plan: Plan) -> Contents:
        """What the plan makes of the tenant. Rejected if a template in it is broken."""
        return contents(self.names, plan, self.options, self.ports.storage.endpoint, self._credentials)

    def digest(self, plan: Plan) -> str:
        """The fingerprint of the contents. Rejected as above."""
        return digest(self.names, plan, self.options, self.ports.storage.endpoint, self._credentials)

    @property
    def _credentials(self) -> int:
        return self.tenant.status.credentials or 0

    @property
    def uid(self) -> str:
        """The identity that everything created for the tenant carries."""
        return self.names.uid


class Activity(ABC):
    """One step of the plan: idempotent forward, idempotent backward, safe to repeat after a crash at any line."""

    name: ClassVar[str]
    phase: ClassVar[str]
    timeout: ClassVar[timedelta]
    retry: ClassVar[RetryPolicy] = RetryPolicy()
    best_effort: ClassVar[bool] = False
    compensates: ClassVar[bool] = True
    verifies: ClassVar[bool] = False
    renews: ClassVar[bool] = False
    looks_only: ClassVar[bool] = False

    def reserves(self, names: Names) -> Sequence[Reservation]:
        """What the activity is about to hold: written to the ledger before `run` touches anything."""
        return ()

    async def run(self, ctx: Context) -> Progress:
        """Reach the goal, or adopt what an earlier try reached."""
        raise NotImplementedError

    async def compensate(self, ctx: Context) -> Undone:
        """Undo whatever `run` may have done, however far it came. What is absent is success."""
        return Done("nothing to roll back")
