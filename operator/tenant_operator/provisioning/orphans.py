"""Ledgers, cluster and PostgreSQL held against each other, both ways. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tenant_operator.api.states import AllocationState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Manifest, StoredItem, key_of
from tenant_operator.provisioning.claims import claim_of

NAMESPACE: Final = "Namespace"
_COMPARED: Final = frozenset({NAMESPACE, "PostgresDatabase", "PostgresRole"})
"""Kinds of the ledger that are looked for. Whatever else there is goes with the namespace."""


class Verdict(StrEnum):
    """What is wrong."""

    ORPHAN = "Orphan"
    """It is there, and no Tenant owns it."""
    UNLISTED = "Unlisted"
    """It is there, and its Tenant's ledger does not know of it."""
    MISSING = "Missing"
    """A ledger has it as allocated, and it is not there."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that was made for a tenant. `uid` is the identity that it carries; `record` is where the Tenant was, as
    namespace/name, if that is known."""

    kind: str
    name: str
    uid: str
    record: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. `tenant` is the Tenant, as namespace/name, that it belongs to or belonged to; empty
    if nothing tells."""

    verdict: Verdict
    kind: str
    name: str
    uid: str
    tenant: str


def things_of(namespaces: Iterable[Manifest], items: Iterable[StoredItem]) -> frozenset[Thing]:
    """All that was made for tenants, as cluster and PostgreSQL have it."""
    claims = ((each["metadata"]["name"], claim_of(each)) for each in namespaces)
    claimed = [Thing(NAMESPACE, name, claim.uid, claim.record) for name, claim in claims if claim is not None]
    return frozenset([*claimed, *(Thing(item.kind, item.name, item.tag) for item in items)])


def owner(tenants: Iterable[Tenant], uid: str, record: str = "") -> Tenant | None:
    """The Tenant that owns what carries the identity, or that would take it over because it is in the place of the one
    that did. Whoever might own something owns it: a thing that is taken for an orphan may be released."""
    return next(
        (
            each
            for each in tenants
            if uid in (each.metadata.uid, each.status.tenant_id) or (record and record == str(key_of(each)))
        ),
        None,
    )


def compare(before: Collection[Thing], tenants: Sequence[Tenant], after: Collection[Thing]) -> list[Finding]:
    """What does not fit. The things are those from before and from after the Tenants were read: what comes or goes
    meanwhile is no finding."""
    records = {thing.uid: thing.record for thing in after if thing.record}
    owners = {thing.uid: owner(tenants, thing.uid, records.get(thing.uid, "")) for thing in after}
    findings = []
    for thing in set(before) & set(after):
        tenant = owners[thing.uid]
        if tenant is None:
            record = records.get(thing.uid, "")
            findings.append(Finding(Verdict.ORPHAN, thing.kind, thing.name, thing.uid, record))
        elif not any((row.kind, row.name) == (thing.kind, thing.name) for row in tenant.status.allocations):
            findings.append(Finding(Verdict.UNLISTED, thing.kind, thing.name, thing.uid, str(key_of(tenant))))
    seen = {(thing.kind, thing.name) for thing in (*before, *after)}
    for tenant in tenants:
        uid = tenant.status.tenant_id or tenant.metadata.uid
        findings += [
            Finding(Verdict.MISSING, row.kind, row.name, uid, str(key_of(tenant)))
            for row in tenant.status.allocations
            if row.kind in _COMPARED and row.state is AllocationState.ALLOCATED and (row.kind, row.name) not in seen
        ]
    return sorted(findings, key=lambda each: (each.verdict, each.uid, each.kind, each.name))
