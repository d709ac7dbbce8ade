"""apply-schema: the tables of the identity store, one migration after the other."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.ports import Migration
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.credentials import password_of
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.step import Done, Progress


class ApplySchema(Activity):
    """Brings the identity schema to the last migration, acting as the role that owns it. It holds nothing of its own:
    the tables go with the database."""

    name: ClassVar[str] = ActivityName.APPLY_SCHEMA
    phase: ClassVar[str] = PhaseName.ALLOCATE
    timeout: ClassVar[timedelta] = timedelta(minutes=5)
    renews: ClassVar[bool] = True

    def __init__(self, migrations: Sequence[Migration]) -> None:
        self._migrations = tuple(migrations)

    async def run(self, ctx: Context) -> Progress:
        if ctx.plan is None:
            raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
        names = ctx.names
        ctx.heartbeat(f"migrating database {names.database}", None)
        password = await password_of(ctx, names.identity_secret, role=names.identity_role, schema=names.identity_schema)
        applied = await ctx.ports.storage.migrate(
            names.database,
            self._migrations,
            schema=names.identity_schema,
            role=names.identity_role,
            password=password,
            tag=ctx.uid,
        )
        if not applied:
            return Done("schema up to date")
        return Done(f"{len(applied)} migration{'' if len(applied) == 1 else 's'} applied")

    async def compensate(self, ctx: Context) -> Progress:
        return Done(f"the schema goes with database {ctx.names.database}")
