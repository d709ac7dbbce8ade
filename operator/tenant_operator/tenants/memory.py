"""What this life of the operator knows of each Tenant: one slot for as long as there is that Tenant, and one way to
forget it."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tenant_operator.api.known_tenant import KnownTenant, brief
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, key_of
from tenant_operator.provisioning.recall import Recalled
from tenant_operator.saga.sight import Kept

Change = Callable[[KnownTenant | None, KnownTenant | None], None]
"""Told of a tenant that was the first and is the second; None stands for no tenant."""


Part = tuple[str, str]
"""Kind and name of an object that a tenant is made of."""


def _nothing(before: KnownTenant | None, after: KnownTenant | None) -> None:
    """Nobody listens."""


_GONE_KEPT: Final = 10_000
"""UIDs of deleted Tenants that are remembered: answers to requests that were under way when they went come soon."""


_NEWS: Final = 5.0
"""Seconds between two writes that tell nothing but a changed cause."""


@dataclass(slots=True)
class Mind:
    """What was found out by looking, beside what the status tells (`Recollection` reads and writes it).

    `identity`: under which its things go, if that is not its UID. `is_confirmed`: whether that is sure. `looked_for`:
    the identity in the status that it was looked for. `recalled`: the last look, until a run begins by it. `is_due`: a
    run waits for a look. `trusted`: the run (or its absence) that was begun in this life, or held against the world.
    `cleared`: the run at whose end nothing was left. `is_leaky`: something was left nevertheless.
    """

    identity: str | None = None
    is_confirmed: bool = True
    looked_for: str | None = None
    recalled: Recalled | None = None
    is_due: bool = False
    trusted: str | None = None
    cleared: str | None = None
    is_leaky: bool = False


@dataclass(slots=True)
class Tended:
    """What the upkeep of a serving tenant has done and seen (`Repair`, `Rollout`, `Health` and `Upkeep` do).

    `noticed`: parts of it that somebody else changed or deleted. `is_due`: all of it is to be compared. `corrected`:
    how often a part was put right in short succession, and when last. `applied`: the digest of the contents that were
    applied in this life and roll out. `moved_at`: when the route moved to them. `pause`: seconds between the last two
    tries, and when the next is due. `told`: when the last news were (seconds, monotonic). `ailing`: how bad it is
    beyond what is told (see `Health`), and since when.
    """

    noticed: set[Part] = field(default_factory=set)
    is_due: bool = False
    corrected: dict[Part, tuple[int, float]] = field(default_factory=dict)
    applied: str | None = None
    moved_at: float | None = None
    pause: tuple[float, float] | None = None
    told: float | None = None
    ailing: tuple[int, float] | None = None

    def is_time_for_news(self, now: float) -> bool:
        """Whether the last news are some time ago; if so, these are the last."""
        if self.told is not None and now - self.told < _NEWS:
            return False
        self.told = now
        return True


@dataclass(slots=True)
class Slot:
    """All that is remembered of one Tenant. `known`: what concerns others of the newest version that could be read,
    `whole` that version, packed if nothing is to be done about it; None if none could be read. `is_readable`: whether
    the newest version can. `kept`: what its saga knows beside the journal. `lacking`: the names of its Deployments that
    lack pods, and whether they have none at all."""

    uid: str
    known: KnownTenant | None = None
    whole: Tenant | bytes | None = None
    is_readable: bool = True
    mind: Mind = field(default_factory=Mind)
    tended: Tended = field(default_factory=Tended)
    kept: Kept | None = None
    lacking: Mapping[str, bool] = field(default_factory=dict)


class TenantMemory:
    """A map that never goes back in time, with the indexes by which tenants are found. A UID that is gone stays gone:
    the answer to an own write may come after the report of the deletion.

    `on_change` is told of every change, whoever noticed it. A Tenant that cannot be read in its newest version is kept
    as it was read last, for the saga that carries it, but found by no index: nobody may rely on it.
    """

    def __init__(self) -> None:
        self.on_change: Change = _nothing
        self._slots: dict[TenantKey, Slot] = {}
        self._keys: dict[str, TenantKey] = {}
        self._gone: dict[str, None] = {}
        self._by_organization: defaultdict[str, dict[TenantKey, Slot]] = defaultdict(dict)
        self._by_slug: defaultdict[str, dict[TenantKey, Slot]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[KnownTenant]:
        return (slot.known for slot in self._slots.values() if slot.known is not None)

    def at_work(self) -> Iterator[Tenant]:
        """Those that are not at rest, as far as they could be read."""
        return (slot.whole for slot in self._slots.values() if isinstance(slot.whole, Tenant))

    def get(self, key: TenantKey) -> Tenant | None:
        """The newest version that could be read."""
        whole = self._slots[key].whole if key in self._slots else None
        return Tenant.model_validate_json(zlib.decompress(whole)) if isinstance(whole, bytes) else whole

    def known(self, key: TenantKey) -> KnownTenant | None:
        """What concerns others of that version; costs nothing."""
        return self._slots[key].known if key in self._slots else None

    def rest(self, tenant: Tenant) -> None:
        """Nothing is to be done about the tenant until it changes: thousands are so, and each takes 50 KB as it is and
        2 KB packed."""
        slot = self.slot(tenant)
        if slot.whole is tenant:
            slot.whole = zlib.compress(tenant.model_dump_json(by_alias=True, exclude_none=True).encode(), level=1)
            slot.known = brief(tenant)

    def slot(self, record: KnownTenant) -> Slot:
        """What is remembered of the Tenant. What is noted of one that is gone is lost."""
        slot = self._slots.get(key_of(record))
        return slot if slot is not None and slot.uid == record.metadata.uid else Slot(record.metadata.uid)

    def key_of_identity(self, identity: str) -> TenantKey | None:
        """Where the Tenant is whose things carry that identity: its UID, or one that it has adopted."""
        return self._keys.get(identity)

    def adopt(self, record: Tenant, identity: str | None) -> None:
        """The Tenant's things carry that identity; None: its UID and no other."""
        slot, key = self.slot(record), key_of(record)
        self._drop_identity(key, slot)
        slot.mind.identity = identity
        if identity is not None and self._slots.get(key) is slot:
            self._keys.setdefault(identity, key)

    def readable(self) -> Sequence[KnownTenant]:
        """All Tenants that can be read."""
        return _known(slot for slot in self._slots.values() if slot.is_readable)

    def of_organization(self, name: str) -> Sequence[KnownTenant]:
        """Every Tenant of the organisation that can be read."""
        return _known(self._by_organization.get(name, {}).values())

    def with_slug(self, slug: str) -> Sequence[KnownTenant]:
        """Every Tenant of that slug that can be read."""
        return _known(self._by_slug.get(slug, {}).values())

    def count_in(self, namespace: str) -> int:
        """How many Tenants there are in a namespace, whether they can be read or not."""
        return sum(1 for key in self._slots if key.namespace == namespace)

    def is_news(self, key: TenantKey, uid: str, resource_version: str) -> bool:
        """Whether a version is newer than what is known at that key, and of a Tenant that is not gone."""
        if uid in self._gone:
            return False
        known = self.known(key)
        # Kubernetes 1.35 and later promise that the resourceVersions of one resource compare as whole numbers.
        return known is None or int(resource_version) > int(known.metadata.resource_version)

    def observe(self, tenant: Tenant) -> bool:
        """Note a version; False if it is not news (an echo of an own write, or a late event)."""
        key = key_of(tenant)
        if not self.is_news(key, tenant.metadata.uid, tenant.metadata.resource_version):
            return False
        before, slot = self._open(key, tenant.metadata.uid)
        slot.known = slot.whole = tenant
        slot.is_readable = True
        self._by_organization[tenant.spec.organization][key] = slot
        self._by_slug[tenant.slug][key] = slot
        self.on_change(before, tenant)
        return True

    def cannot_be_read(self, key: TenantKey, uid: str) -> None:
        """There is a newer version, and it makes no sense."""
        before, slot = self._open(key, uid)
        slot.is_readable = False
        if before is not None:
            self.on_change(before, None)

    def forget(self, key: TenantKey, uid: str) -> bool:
        """The Tenant of that UID is gone, and all that was remembered of it. False if another one is known at its
        place."""
        self._gone[uid] = None
        if len(self._gone) > _GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        slot = self._slots.get(key)
        if slot is not None and slot.uid != uid:
            return False
        if slot is not None:
            before = self._hide(key, slot)
            self._drop(key, slot)
            if before is not None:
                self.on_change(before, None)
        return True

    def _open(self, key: TenantKey, uid: str) -> tuple[KnownTenant | None, Slot]:
        """The slot of that Tenant, out of the indexes, and what was found there before. One that has taken another's
        place begins with an empty one."""
        slot = self._slots.get(key)
        before = self._hide(key, slot) if slot is not None else None
        if slot is not None and slot.uid != uid:
            self._drop(key, slot)
            slot = None
        if slot is None:
            slot = self._slots[key] = Slot(uid)
            self._keys[uid] = key
        return before, slot

    def _hide(self, key: TenantKey, slot: Slot) -> KnownTenant | None:
        """Take it out of the indexes. Returns what was found there."""
        tenant = slot.known
        if tenant is None or not slot.is_readable:
            return None
        for index, name in ((self._by_organization, tenant.spec.organization), (self._by_slug, tenant.slug)):
            del index[name][key]
            if not index[name]:
                del index[name]
        return tenant

    def _drop(self, key: TenantKey, slot: Slot) -> None:
        self._drop_identity(key, slot)
        self._keys.pop(slot.uid, None)
        del self._slots[key]

    def _drop_identity(self, key: TenantKey, slot: Slot) -> None:
        identity = slot.mind.identity
        if identity is not None and self._keys.get(identity) == key:
            del self._keys[identity]


def _known(slots: Iterable[Slot]) -> Sequence[KnownTenant]:
    return tuple(slot.known for slot in slots if slot.known is not None)
