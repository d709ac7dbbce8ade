"""What there is of a tenant, whatever its status tells: asked of the cluster and of PostgreSQL, by name and by tag.

A status can be wiped, replayed or restored for another Tenant. So before a run begins the namespace says who the tenant
is and whether it has served; and before anything counts as released a look tells that nothing is left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tenant_operator.api.names import LABEL_TENANT_UID, ActivityName
from tenant_operator.api.states import ActivityState, RunKind
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Manifest, StoredItem
from tenant_operator.provisioning import route
from tenant_operator.provisioning.activity import Context, Ports
from tenant_operator.provisioning.claims import Claim, claim_of, is_own
from tenant_operator.provisioning.holdings import lost
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import all_of, belongs_to, is_going, namespace_ref, taken_by
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import Rejected

_NEW: Final = timedelta(minutes=1)
"""A Tenant that is younger has no past in which it could have served."""
_OF_STORAGE: Final = frozenset({ActivityName.ALLOCATE_STORAGE, ActivityName.ALLOCATE_IDENTITY_STORE})


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was found of a tenant. `identity`: the UID that its things carry. `holds`: it has a namespace. `attempt`:
    the last one that is known of. `serves`: it is complete and has served; `suspended`: its route is closed.
    `hindrance`: why nothing may be begun, for people. `is_confirmed` is False if the status tells of an identity that
    nothing proves to be the tenant's. `for_run` is whether it was looked for more than the identity."""

    identity: str
    holds: bool = False
    attempt: int = 0
    serves: bool = False
    suspended: bool = False
    hindrance: str = ""
    is_confirmed: bool = True
    for_run: bool = False


def former_identity(tenant: Tenant) -> str | None:
    """The identity that the status tells of, if it is not the UID of the Tenant itself."""
    told = tenant.status.tenant_id
    return told if told != tenant.metadata.uid else None


async def recall(
    tenant: Tenant, own: Names, ports: Ports, options: Options, *, for_run: bool, journal_is_empty: bool
) -> Recalled:
    """Look who the tenant is, and with `for_run` what there is of it. `own` are its names if it is who its UID says."""
    namespace = await ports.cluster.get(namespace_ref(own))
    claim = claim_of(namespace) if namespace is not None else None
    if namespace is None or claim is None or not is_own(claim, tenant):
        return await _elsewhere(tenant, own, ports, namespace, for_run=for_run, journal_is_empty=journal_is_empty)
    found = Recalled(claim.uid, True, claim.attempt, for_run=for_run)
    if not claim.served or not for_run:
        return found
    names = replace(own, uid=claim.uid)
    if missing := await _missing(namespace, names, ports):
        return replace(found, hindrance=_incomplete(claim, names, missing))
    switch = await ports.cluster.get(route.refs(names, options)[0])
    is_open = switch is not None and route.is_open(switch, names, options)
    return replace(found, serves=True, suspended=not is_open)


async def remains(ctx: Context) -> tuple[str, ...]:
    """What is left of the tenant anywhere. Rejected if something is left that nothing proves to be its own."""
    names, cluster = ctx.names, ctx.ports.cluster
    if ctx.organization is None:
        await _refuse_strays(ctx)
    outside = (ref for ref in route.all_refs(names, ctx.options) if ref.namespace != names.namespace)
    refs = (namespace_ref(names), *outside)
    stored = await all_of(cluster.get(ref) for ref in refs)
    found = [
        str(ref)
        for ref, manifest in zip(refs, stored, strict=True)
        if manifest is not None and belongs_to(manifest, names)
    ]
    if found or _may_have_stored(ctx.tenant):
        found += map(str, await ctx.ports.storage.inventory(names.uid))
    former = former_identity(ctx.tenant)
    if former not in (None, names.uid) and (items := await ctx.ports.storage.inventory(former)):
        raise Rejected(_unconfirmed(former, items, f"namespace {names.namespace} does not say so"))
    return tuple(found)


async def _refuse_strays(ctx: Context) -> None:
    """The names of a tenant's things follow from its Organization: without it they are found by their label alone."""
    names = ctx.names
    found = await ctx.ports.cluster.list("v1", "Namespace", "", {LABEL_TENANT_UID: names.uid})
    if strays := [name for each in found if (name := each["metadata"]["name"]) != names.namespace]:
        organization = ctx.tenant.spec.organization
        raise Rejected(
            f"namespace {_listed(strays)} carries the identity of this tenant, and what else it holds cannot be found "
            f"without its Organization. Next: create Organization {organization} again"
        )


def _may_have_stored(tenant: Tenant) -> bool:
    """Whether PostgreSQL has to be asked. A run that never came so far, and whose namespace is not there either, need
    not wait for a database that is down."""
    run = tenant.status.run
    if run is None or run.kind is not RunKind.PROVISION:
        return True
    ran = (row.activity for row in tenant.status.timeline if row.state is not ActivityState.PENDING)
    reserved = (entry.activity for entry in tenant.status.allocations)
    return not _OF_STORAGE.isdisjoint((*ran, *reserved))


async def _elsewhere(
    tenant: Tenant, own: Names, ports: Ports, namespace: Manifest | None, *, for_run: bool, journal_is_empty: bool
) -> Recalled:
    """The namespace is not there, or not the tenant's: what there may be of it nevertheless."""
    found = Recalled(own.uid, for_run=for_run)
    if (former := former_identity(tenant)) is not None:
        if items := await ports.storage.inventory(former):
            why = f"there is no namespace {own.namespace}" if namespace is None else taken_by(namespace, own)
            return replace(found, hindrance=_unconfirmed(former, items, why), is_confirmed=False)
        if not for_run:
            return replace(found, identity=former)  # nothing carries it: nobody is harmed
    is_unknown = for_run and journal_is_empty and namespace is None and not _is_new(tenant, ports.clock.now())
    if is_unknown and (items := await ports.storage.inventory(own.uid)):
        return replace(found, hindrance=_homeless(own, items))
    return found


async def _missing(namespace: Manifest, names: Names, ports: Ports) -> list[str]:
    """What keeps a tenant that has served from being taken over."""
    if is_going(namespace):
        return [f"namespace {names.namespace} (it is being deleted)"]
    return await lost(names, ports)


def _is_new(tenant: Tenant, now: datetime) -> bool:
    created = tenant.metadata.creation_timestamp
    return created is not None and abs(now - created) < _NEW


def _incomplete(claim: Claim, names: Names, missing: Sequence[str]) -> str:
    return (
        f"the status does not tell that this tenant has served; namespace {names.namespace} does (identity "
        f"{claim.uid}, attempt {claim.attempt}). It is not taken over without {_listed(missing)}. Next: restore what "
        "is missing; or release what is there with desiredState: Decommissioned"
    )


def _homeless(names: Names, items: Iterable[StoredItem]) -> str:
    return (
        f"the status tells of nothing and there is no namespace {names.namespace}, but {_listed(items)} may hold data. "
        "Next: restore the namespace from a backup; or save the data, and release it with desiredState: Decommissioned"
    )


def _unconfirmed(former: str, items: Iterable[StoredItem], why: str) -> str:
    return (
        f"status.tenantId is {former}, which {_listed(items)} belong to, and nothing proves that this Tenant owns "
        f"them: {why}. Next: restore the tenant's namespace from the backup that the Tenant came from; or, if nobody "
        f"needs them: tenant-operator orphans --release {former}"
    )


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))
