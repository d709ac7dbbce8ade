"""What the domain needs from the outside world, as protocols that it owns.

What a port raises is one tree, in `saga.errors`; `WriteRefused` here is the only one that the domain adds:

ActivityError              `can_heal` says whether a later try may succeed
├── Unavailable            a later try may
│   └── Outage             the other side is away, for everybody
│       └── NotAsked       and known to be, so it was spared the question
└── Rejected               it said no, for good
    ├── OwnershipConflict  the name belongs to someone else
    └── WriteRefused       a record cannot be stored as it is to be written
RecordError                the record is another than was thought; never told to people
├── Stale                  it has changed since it was read: nothing was written
├── JournalMoved           its journal is another's by now
└── Gone                   it is not there any more

Messages name the object and the cause and carry no secret. Each port has a fake in `tests/fakes`, held to the same
contract suite as the real adapter.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.saga.errors import Rejected

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON data: apiVersion, kind, metadata, and the rest."""


class Clock(Protocol):
    """Where the domain reads the time."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware, UTC: for what is written down."""

    def elapsed(self) -> float:
        """Seconds since some fixed point, by a clock that nobody sets: for what is measured within this process."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Names one Kubernetes object. `namespace` is None for cluster-scoped kinds."""

    api_version: str
    kind: str
    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of an object that is not as it was applied. `field`: its path, such as `spec.replicas`; empty: the
    whole object is gone. `manager`: the field manager who has set it; empty if nobody has (it was removed)."""

    field: str
    manager: str = ""


class Cluster(Protocol):
    """The Kubernetes objects a tenant is made of."""

    async def get(self, ref: ObjectRef) -> Manifest | None:
        """The object as the API server has it now, or None."""

    async def list(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        """The objects of a kind in a namespace that carry all `labels`; empty if there is no such namespace."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create and return the object as stored. If the name is taken, nothing changes and the object that holds it is
        returned: the caller tells by its labels whether it is its own (atomic: of two creators one wins)."""

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply as field manager `tenant-operator`, taking over the fields it names."""

    async def compare(self, manifest: Manifest) -> Sequence[Difference]:
        """In what the object is not as the manifest has it, if the manifest is what was applied last: what others have
        changed, removed or set beside. Left to them are notes in its metadata, its status, the time of `kubectl rollout
        restart`, and the replicas if the manifest names none."""

    async def correct(self, manifest: Manifest) -> None:
        """Apply, and take away what `compare` finds of others."""

    async def delete(self, ref: ObjectRef) -> bool:
        """Ask for deletion, dependents included. True once it is gone (absent is success), False while it is going."""


class Prober(Protocol):
    """The HTTP readiness probe of a plan."""

    async def status(self, url: str, timeout_seconds: float) -> int:
        """The HTTP status of a GET without following redirects. No answer in time: Unavailable with the cause."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file: `version` is its file name, applied in the order of names; `checksum` is the SHA-256 of `sql`."""

    version: str
    sql: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where workloads reach the database server, and how: `sslmode` and `authority` (certificates, PEM) are those of
    the platform's own connection, None if it leaves them open."""

    host: str
    port: int
    sslmode: str | None = None
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A database or a login role that was made for a tenant: `kind` as in the ledger (`PostgresDatabase`,
    `PostgresRole`), `tag` is the tenant's UID."""

    kind: str
    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Storage(Protocol):
    """The platform's PostgreSQL. Passwords are parameters only; they appear in no message."""

    async def prepare(self) -> Sequence[str]:
        """Find out whether the server can be used, and make it ready. Returns what still lets tenants' roles in where
        they do not belong: one sentence each, with the command that ends it. Unavailable if the server does not answer
        or refuses the login; Rejected, naming what is missing, if the administrator may not do what is needed."""

    async def inventory(self, tag: str | None = None) -> Sequence[StoredItem]:
        """Every database and every role on the server that was made for a tenant: of that `tag`, or of all."""

    @property
    def endpoint(self) -> Endpoint:
        """Host and port for the tenants' workloads."""

    async def ensure_database(self, name: str, *, owner: str, password: str, connection_limit: int, tag: str) -> None:
        """A database owned by the login role `owner` that no one else may connect to. Run again, it sets the password
        and the limit (which holds for the role as well) and keeps the data. `tag` (the tenant's UID) marks the role,
        and what the role owns is the tenant's; a database or role of that name that is not raises OwnershipConflict
        and stays untouched."""

    async def ensure_schema(
        self, database: str, *, schema: str, role: str, password: str, connection_limit: int, tag: str
    ) -> None:
        """A schema inside the database owned by a login role of its own, which may connect to this database only."""

    async def migrate(
        self, database: str, migrations: Sequence[Migration], *, schema: str, role: str, password: str, tag: str
    ) -> list[str]:
        """Apply what is missing, in order, each in one transaction with its record in the table `schema_migrations` of
        the schema, under an advisory lock, logged in as `role` with `schema` first in the search path. Returns the
        versions applied now. A failing file raises Rejected naming the file and PostgreSQL's message; a recorded
        version whose checksum changed raises Rejected and nothing runs."""

    async def release(self, database: str, *, role: str, tag: str) -> Sequence[str]:
        """Drop the database if it is the tenant's, from outside and whatever was done in it, then `role`. Returns what
        was dropped, for people. What is absent is success; what is another tenant's stays, and raises OwnershipConflict
        once what is the tenant's own is gone. Rejected, naming what is in the way and the way out, if only a person can
        tell or end it."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One email. `key` is stable over retries and restarts: it becomes the Message-ID and the idempotency key."""

    key: str
    recipient: str
    subject: str
    text: str
    html: str


class Mailer(Protocol):
    """The way emails leave the platform."""

    async def send(self, mail: Mail) -> None:
        """Returns once the other side has taken responsibility. 4xx replies and lost connections are Outage, a mailbox
        that is busy is Unavailable, 5xx replies (a refused recipient, say) are Rejected."""


class Reachable(Protocol):
    """Something outside that can be looked at before it is needed."""

    async def check(self) -> None:
        """Returns if it could be used now, and leaves nothing behind. Raises Unavailable or Rejected with the cause."""


class AuditLog(Protocol):
    """One sink of the audit feed."""

    async def append(self, events: Sequence[OutboxEvent]) -> None:
        """Store the events in order; an event whose id is stored already is left as it is."""


class Notice(Protocol):
    """What a person sees in `kubectl describe`."""

    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def warning(self) -> bool: ...


class Notifier(Protocol):
    """Kubernetes Events on the Tenant: a convenience, never waited for, allowed to fail."""

    async def publish(self, tenant: Tenant, notices: Sequence[Notice]) -> None:
        """Post the notices as Events in order; failures are logged by the adapter, never raised."""


class WriteRefused(Rejected):
    """The API server does not take the record as it is to be written, such as one that others made too large: until
    that is over nothing can be journalled about it."""


@dataclass(frozen=True, slots=True, order=True)
class TenantKey:
    """Where a Tenant is found."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(tenant: KnownTenant) -> TenantKey:
    """Where the tenant is found."""
    return TenantKey(tenant.metadata.namespace or "", tenant.metadata.name)


class TenantStore(Protocol):
    """The Tenants themselves: their status is the journal."""

    async def read(self, key: TenantKey) -> Tenant | None:
        """The Tenant as the API server has it now (no cache), or None."""

    async def list(self, namespace: str) -> list[Tenant]:
        """The Tenants of a namespace as they are now."""

    async def write_status(self, tenant: Tenant) -> Tenant:
        """Replace the status, guarded by the resourceVersion that `tenant` carries. Returns what is stored. Stale if
        it has moved on; `WriteRefused`; `Unavailable` if the API server did not answer (the write may or may not have
        happened)."""

    async def write_metadata(self, tenant: Tenant) -> Tenant:
        """Make the finalizers and this group's annotations those of `tenant`, guarded by its resourceVersion. Errors
        as above; returns `tenant` unchanged if the object is gone."""


class Catalog(Protocol):
    """What the platform team offers, and who holds what: kept in memory by watches, so that reading costs nothing."""

    def plan(self, name: str) -> Plan | None: ...

    def organization(self, name: str) -> Organization | None: ...

    def organizations(self) -> Collection[Organization]:
        """Every Organization, in no order."""

    def tenants_of(self, organization: str) -> Sequence[KnownTenant]:
        """Every Tenant of the organisation, in no order; bounded staleness (a watch)."""

    def tenants_in(self, namespace: str) -> int:
        """How many Tenants are known in a namespace: held against a census, it tells whether the watch is behind."""


class Census(Protocol):
    """The number of Tenants, counted by the API server."""

    async def count(self, namespace: str) -> int:
        """How many Tenants there are in a namespace at this moment, for the price of reading one."""


class Directory(Catalog, Protocol):
    """The catalogue, with the questions that concern all tenants."""

    def tenants(self) -> Collection[KnownTenant]:
        """Every Tenant of every organisation, in no order."""

    def tenants_with_slug(self, slug: str) -> Sequence[KnownTenant]:
        """Every Tenant of that slug, of whatever organisation."""


class Offers(Protocol):
    """The Plans and Organizations as the API server has them now: for an answer that must not come from a cache."""

    async def plan(self, name: str) -> Plan | None: ...

    async def organization(self, name: str) -> Organization | None: ...

    async def organizations(self) -> Collection[Organization]:
        """Every Organization, in no order."""


class Replicas(Protocol):
    """Which of the replicas acts on what."""

    def mine(self, key: Hashable) -> bool:
        """Whether this one may act on the tenant, Plan or Organization of that key now. Asked by everybody who acts,
        before each thing that is done: the answer can change at any time, and costs nothing."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, as the API server has authenticated them."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


class AccessReview(Protocol):
    """The API server's authorizers, asked on behalf of someone."""

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        """Whether the caller may do `verb` to that Tenant."""

    async def may_list(self, caller: Caller, plural: str) -> bool:
        """Whether the caller may see all objects of one of the product's kinds, in whatever namespace."""
