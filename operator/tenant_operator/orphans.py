"""`tenant-operator orphans`: shows what is there and belongs to no Tenant, and what a ledger has and is not there; and
releases what a person names. It runs beside an operator, with the operator's settings and rights."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import ValidationError

from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.errors import unreadable
from tenant_operator.adapters.kubernetes.listing import listed
from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.api.names import FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_TENANT_UID
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Cluster, ObjectRef, Storage, key_of
from tenant_operator.provisioning.orphans import NAMESPACE, Finding, Thing, Verdict, compare, owner, things_of
from tenant_operator.saga.errors import ActivityError, Rejected, Unavailable
from tenant_operator.settings import Settings

NOTHING, FOUND, FAILED = 0, 1, 2
"""Exit codes: all fits; something does not, or was not released; it could not be found out."""

WARNING: Final = (
    "Databases and roles whose namespace is not in this cluster may be those of another cluster that uses the same "
    "PostgreSQL: nothing here can tell. Released data is gone."
)
_GRANTS: Final = ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant")
_POLL_SECONDS: Final = 0.5
_NAMESPACE_SECONDS: Final = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where tenants' things are, and the Tenants."""

    kubernetes: KubernetesClient
    cluster: Cluster
    storage: Storage
    responder_namespace: str

    async def things(self) -> frozenset[Thing]:
        """All that was made for tenants."""
        labels = {LABEL_MANAGED_BY: FIELD_MANAGER}
        namespaces = await self.cluster.list("v1", NAMESPACE, "", labels)
        return things_of(namespaces, await self.storage.inventory())

    async def tenants(self) -> list[Tenant]:
        """Every Tenant. Rejected if one cannot be read: whatever it owns would pass for nobody's."""
        try:
            return [Tenant.model_validate(each) async for each in listed(self.kubernetes, Tenant.definition.plural)]
        except ValidationError as error:
            raise Rejected(f"not every Tenant can be read: {unreadable(error)}") from error

    async def findings(self) -> list[Finding]:
        """What does not fit now."""
        before = await self.things()
        tenants = await self.tenants()
        return compare(before, tenants, await self.things())


@asynccontextmanager
async def places(settings: Settings) -> AsyncIterator[Places]:
    """The operator's cluster and PostgreSQL. Raises LoginError."""
    async with await KubernetesClient.connect(Connection(connections=settings.kube_connections)) as kubernetes:
        storage = PostgresStorage(
            settings.database_url.get_secret_value(),
            maintenance=settings.database_maintenance,
            connections=settings.database_connections,
        )
        try:
            yield Places(
                kubernetes,
                KubernetesCluster(kubernetes),
                storage,
                settings.responder_namespace,
            )
        finally:
            await storage.close()


def table(findings: Sequence[Finding]) -> str:
    """The findings for people, a line each under a heading."""
    rows = [("VERDICT", "KIND", "NAME", "UID", "TENANT")]
    rows += [(each.verdict.value, each.kind, each.name, each.uid, each.tenant or "-") for each in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(findings: Sequence[Finding]) -> str:
    """The findings for machines: a list of objects."""
    return json.dumps([asdict(each) for each in findings], indent=2)


async def release(places: Places, uids: Sequence[str], say: Say) -> bool:
    """Release the orphans of these identities, one after the other. False if one of them could not be released."""
    released = True
    for uid in dict.fromkeys(uids):
        try:
            await _release(places, uid, say)
        except ActivityError as error:
            released = False
            say(f"{uid}: not released: {error.message}")
    return released


async def _release(places: Places, uid: str, say: Say) -> None:
    """What PostgreSQL has first: as long as the namespace is there, it tells whose the rest was."""
    things = sorted((each for each in await places.things() if each.uid == uid), key=lambda each: each.name)
    if not things:
        raise Rejected("there is nothing that carries this UID")
    record = next((each.record for each in things if each.record), "")
    stored = [each for each in things if each.kind != NAMESPACE]
    if stored:
        await _refuse_owned(places, uid, record)
        await release_stored(places.storage, uid, stored)
        for each in stored:
            say(f"{uid}: {each.kind} {each.name} released")
    for each in things:
        if each.kind == NAMESPACE:
            await _refuse_owned(places, uid, record)
            await _delete_namespace(places, each)
            say(f"{uid}: {each.kind} {each.name} released")


async def _refuse_owned(places: Places, uid: str, record: str) -> None:
    """A last look, right before something is deleted: a Tenant may have come, or come back, since the comparison."""
    if (tenant := owner(await places.tenants(), uid, record)) is not None:
        raise Rejected(
            f"Tenant {key_of(tenant)} owns it; decommission or delete the Tenant, and the operator releases it"
        )


async def release_stored(storage: Storage, uid: str, things: Sequence[Thing]) -> None:
    """Drop the databases and roles that carry the UID. A database does so by its owner, which is one of the roles."""
    databases = [each.name for each in things if each.kind == "PostgresDatabase"]
    for role in [each.name for each in things if each.kind == "PostgresRole"]:
        for database in databases or [role]:
            await storage.release(database, role=role, tag=uid)


async def _delete_namespace(places: Places, thing: Thing) -> None:
    """Delete a namespace, as long as it carries the UID, and what lets its route out; returns when it is gone."""
    version, kind = _GRANTS
    for ref in (
        ObjectRef(version, kind, thing.name, places.responder_namespace),
        ObjectRef("v1", NAMESPACE, thing.name),
    ):
        stored = await places.cluster.get(ref)
        labels = stored["metadata"].get("labels") or {} if stored is not None else {}
        if labels.get(LABEL_TENANT_UID) != thing.uid:
            continue
        try:
            async with asyncio.timeout(_NAMESPACE_SECONDS):
                while not await places.cluster.delete(ref):  # noqa: ASYNC110 (nothing here watches the cluster)
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Unavailable(f"{ref} is still being deleted; see its status.conditions") from None


def chosen(findings: Sequence[Finding], uids: Sequence[str]) -> list[Finding]:
    """The orphans that are to be released. Rejected if one of the UIDs is no orphan's."""
    orphans = [each for each in findings if each.verdict is Verdict.ORPHAN]
    if unknown := sorted(set(uids) - {each.uid for each in orphans}):
        raise Rejected(f"no orphan carries the UID {', '.join(unknown)}; `tenant-operator orphans` lists those that do")
    return [each for each in orphans if each.uid in uids]
