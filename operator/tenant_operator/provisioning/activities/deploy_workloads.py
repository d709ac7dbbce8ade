"""deploy-workloads: what runs for the tenant."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar, Final

from tenant_operator.api.names import LABEL_TENANT_UID, ActivityName, PhaseName
from tenant_operator.ports import Manifest, ObjectRef
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.contents import Deployed
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import COMPONENT, all_of, apply_all, delete_all
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, NotYet, Progress, RetryPolicy

_KINDS: Final = (("apps/v1", "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget"))


class DeployWorkloads(Activity):
    """Applies the plan's workloads; whether they run is the next activity's question."""

    name: ClassVar[str] = ActivityName.DEPLOY_WORKLOADS
    phase: ClassVar[str] = PhaseName.DEPLOY
    timeout: ClassVar[timedelta] = timedelta(minutes=10)
    retry: ClassVar[RetryPolicy] = RetryPolicy(max_tries=10)

    def reserves(self, names: Names) -> Sequence[Reservation]:
        # One row for all: which workloads there are is the plan's to say, and it may change while nothing runs.
        return (Reservation("WorkloadSet", names.namespace, names.namespace),)

    async def run(self, ctx: Context) -> Progress:
        """Rejected if the plan is gone, or a template in it is broken."""
        if ctx.plan is None:
            raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
        objects = ctx.contents(ctx.plan).workloads
        ctx.heartbeat(f"applying {len(objects)} objects", None)
        await apply_all(ctx.ports.cluster, objects)
        deployments = sum(1 for manifest in objects if manifest["kind"] == "Deployment")
        return Done(f"{deployments} workloads of plan {ctx.plan.metadata.name} applied", Deployed(ctx.digest(ctx.plan)))

    async def compensate(self, ctx: Context) -> Progress:
        """Delete every workload that carries the tenant's UID, whatever plan it came from."""
        refs = await workload_refs(ctx)
        ctx.heartbeat(f"deleting {len(refs)} objects", None)
        going = await delete_all(ctx.ports.cluster, refs)
        if going:
            return NotYet(f"still being deleted: {', '.join(map(str, going))}")
        return Done("workloads removed")


async def workload_refs(ctx: Context) -> list[ObjectRef]:
    """Every workload that carries the tenant's UID, whatever plan it came from."""
    return list(await stored_workloads(ctx))


async def stored_workloads(ctx: Context) -> dict[ObjectRef, Manifest]:
    """The same, as they are stored."""
    namespace = ctx.names.namespace
    labels = {LABEL_TENANT_UID: ctx.uid, COMPONENT: "workload"}
    listed = await all_of(ctx.ports.cluster.list(version, kind, namespace, labels) for version, kind in _KINDS)
    # What a list holds need not say its kind.
    return {
        ObjectRef(version, kind, manifest["metadata"]["name"], namespace): manifest
        for (version, kind), found in zip(_KINDS, listed, strict=True)
        for manifest in found
    }
