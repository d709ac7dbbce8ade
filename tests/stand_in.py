"""An activity in the place of another: the base of those that tests put into the plan."""

from collections.abc import Sequence

from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Progress, Undone


class StandIn(Activity):
    """Declares all that the `inner` activity declares, and does what that does.

    A declaration that got lost would make another saga of it: one in which no step verifies releases for ever.
    """

    def __init__(self, inner: Activity) -> None:
        for declared in Activity.__annotations__:
            setattr(self, declared, getattr(inner, declared))
        self._inner = inner

    def reserves(self, names: Names) -> Sequence[Reservation]:
        return self._inner.reserves(names)

    async def run(self, ctx: Context) -> Progress:
        return await self._inner.run(ctx)

    async def compensate(self, ctx: Context) -> Undone:
        return await self._inner.compensate(ctx)
