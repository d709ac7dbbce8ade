"""allocate-namespace: the claim on the host, and the bounds of everything in it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.api.states import RunKind
from tenant_operator.ports import Manifest
from tenant_operator.provisioning import claims, manifests
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import apply_all, belongs_to, is_going, namespace_ref, taken_by
from tenant_operator.saga.errors import OwnershipConflict, Rejected
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, NotYet, Progress, RetryPolicy

_BLOCKERS = (
    "NamespaceContentRemaining",
    "NamespaceFinalizersRemaining",
    "NamespaceDeletionContentFailure",
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
)


class AllocateNamespace(Activity):
    """Holding the namespace is holding the host: its creation is atomic, so of two tenants one wins."""

    name: ClassVar[str] = ActivityName.ALLOCATE_NAMESPACE
    phase: ClassVar[str] = PhaseName.ALLOCATE
    timeout: ClassVar[timedelta] = timedelta(minutes=5)
    retry: ClassVar[RetryPolicy] = RetryPolicy(max_tries=10)
    renews: ClassVar[bool] = True

    def reserves(self, names: Names) -> Sequence[Reservation]:
        return (Reservation("Namespace", names.namespace),)

    async def run(self, ctx: Context) -> Progress:
        """OwnershipConflict if another tenant holds the host."""
        names, cluster = ctx.names, ctx.ports.cluster
        if ctx.plan is None:
            raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
        namespace, *bounds = manifests.namespace(names, ctx.plan)
        run = ctx.tenant.status.run
        claim = claims.marked(namespace, ctx.tenant, served=run is not None and run.kind is RunKind.ADOPT)
        ctx.heartbeat(f"claiming namespace {names.namespace}", None)
        stored = await cluster.create(claim)
        if not belongs_to(stored, names):
            raise OwnershipConflict(taken_by(stored, names))
        if is_going(stored):
            return NotYet(f"namespace {names.namespace} is still terminating{blockers(stored)}")
        await apply_all(cluster, bounds if claims.says(stored, claim) else [claim, *bounds])
        return Done(f"namespace {names.namespace} allocated")

    async def compensate(self, ctx: Context) -> Progress:
        """Delete the namespace with all that is in it, unless it is another tenant's."""
        cluster, namespace = ctx.ports.cluster, ctx.names.namespace
        stored = await cluster.get(namespace_ref(ctx.names))
        if stored is None:
            return Done(f"namespace {namespace} is gone")
        if not belongs_to(stored, ctx.names):
            return Done(f"namespace {namespace} belongs to another tenant, left alone")
        ctx.heartbeat(f"deleting namespace {namespace}", None)
        if not is_going(stored) and await cluster.delete(namespace_ref(ctx.names)):
            return Done(f"namespace {namespace} deleted")
        return NotYet(f"namespace {namespace} is terminating{blockers(stored)}")


def blockers(namespace: Manifest) -> str:
    """What keeps a namespace from going, as it says itself; empty if it says nothing."""
    conditions = (namespace.get("status") or {}).get("conditions") or ()
    messages = [
        str(condition.get("message") or condition["type"])
        for condition in conditions
        if condition.get("type") in _BLOCKERS and condition.get("status") == "True"
    ]
    return f": {'; '.join(messages)}" if messages else ""
