"""allocate-traffic-boundary: who may talk to the tenant's pods, and the route, closed."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.ports import ObjectRef
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import all_of, apply_all, belongs_to, delete_all
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, NotYet, Progress, RetryPolicy


class AllocateTrafficBoundary(Activity):
    """NetworkPolicies and the route; the route answers "paused" until the tenant is active."""

    name: ClassVar[str] = ActivityName.ALLOCATE_TRAFFIC_BOUNDARY
    phase: ClassVar[str] = PhaseName.ALLOCATE
    timeout: ClassVar[timedelta] = timedelta(minutes=5)
    retry: ClassVar[RetryPolicy] = RetryPolicy(max_tries=10)

    def __init__(self, options: Options) -> None:
        self._options = options

    def reserves(self, names: Names) -> Sequence[Reservation]:
        return [Reservation(ref.kind, ref.name, ref.namespace) for ref in _refs(names, self._options)]

    async def run(self, ctx: Context) -> Progress:
        """Rejected if the plan is gone, or its egress makes no sense."""
        if ctx.plan is None:
            raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
        database = ctx.ports.storage.endpoint
        policies = manifests.network_policies(ctx.names, ctx.options, ctx.plan, database=database)
        closed_route = route.manifests(ctx.names, ctx.options, ctx.plan, is_open=False)
        ctx.heartbeat(f"applying {len(policies)} network policies and the closed route", None)
        await apply_all(ctx.ports.cluster, [*policies, *closed_route])
        return Done(f"{len(policies)} network policies applied, route for {ctx.names.host} reserved and closed")

    async def compensate(self, ctx: Context) -> Progress:
        """Delete what is the tenant's own, also what was made when the platform routed in another way: what the ledger
        has of it, and what does not go with the namespace."""
        cluster, names = ctx.ports.cluster, ctx.names
        held = {(row.kind, row.name, row.namespace) for row in ctx.tenant.status.allocations}
        former = (
            ref
            for ref in route.all_refs(names, ctx.options)
            if ref.namespace != names.namespace or (ref.kind, ref.name, ref.namespace) in held
        )
        refs = list(dict.fromkeys((*_refs(names, ctx.options), *former)))
        ctx.heartbeat(f"deleting {len(refs)} objects of the traffic boundary", None)
        stored = await all_of(cluster.get(ref) for ref in refs)
        mine = [
            ref
            for ref, manifest in zip(refs, stored, strict=True)
            if manifest is not None and belongs_to(manifest, ctx.names)
        ]
        going = await delete_all(cluster, mine)
        if going:
            return NotYet(f"still being deleted: {', '.join(map(str, going))}")
        return Done(f"{len(mine)} objects of the traffic boundary deleted")


def _refs(names: Names, options: Options) -> tuple[ObjectRef, ...]:
    policies = (
        ObjectRef("networking.k8s.io/v1", "NetworkPolicy", policy, names.namespace)
        for policy in manifests.NETWORK_POLICIES
    )
    return (*policies, *route.refs(names, options))
