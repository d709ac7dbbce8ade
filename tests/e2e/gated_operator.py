"""The operator, with a gate in each of its activities: `python -m tests.e2e.gated_operator run`.

While the file that E2E_GATE names is there, a Tenant called f-<activity>-… waits in that activity, and one called
b-<activity>-… in its compensation; those called b-… are made to fail at mark-active.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tenant_operator import app
from tenant_operator.__main__ import main
from tenant_operator.api.names import ActivityName
from tenant_operator.ports import Migration
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.step import Done, NotYet, Progress, Undone
from tests.stand_in import StandIn

GATE = "E2E_GATE"


class Gated(StandIn):
    """Another activity, behind the gate."""

    def _is_held(self, ctx: Context, way: str) -> bool:
        return ctx.tenant.metadata.name.startswith(f"{way}-{self.name}-") and Path(os.environ[GATE]).exists()

    async def run(self, ctx: Context) -> Progress:
        if self._is_held(ctx, "f"):
            return NotYet("the gate is shut", 0.5)
        progress = await super().run(ctx)
        fails = self.name == ActivityName.MARK_ACTIVE and ctx.tenant.metadata.name.startswith("b-")
        if fails and isinstance(progress, Done):
            raise Rejected("made to fail")
        return progress

    async def compensate(self, ctx: Context) -> Undone:
        if self._is_held(ctx, "b"):
            return NotYet("the gate is shut", 0.5)
        return await super().compensate(ctx)


def gated_steps(options: Options, migrations: Sequence[Migration]) -> tuple[Activity, ...]:
    """The steps of provisioning, each activity behind the gate."""
    return tuple(Gated(each) for each in provisioning_steps(options, migrations))


if __name__ == "__main__":
    app.provisioning_steps = gated_steps  # type: ignore[attr-defined]
    main()
