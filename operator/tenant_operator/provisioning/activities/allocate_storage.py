"""allocate-storage: the tenant's database, its owner role, and the Secret to log in with."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.ports import ObjectRef
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.credentials import password_of, release_storage
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, Progress


class AllocateStorage(Activity):
    """A database that only the tenant's own roles can connect to. The password exists before the role does, in the
    Secret, so that a repeated try sets the same one."""

    name: ClassVar[str] = ActivityName.ALLOCATE_STORAGE
    phase: ClassVar[str] = PhaseName.ALLOCATE
    timeout: ClassVar[timedelta] = timedelta(minutes=5)
    renews: ClassVar[bool] = True

    def reserves(self, names: Names) -> Sequence[Reservation]:
        return (
            Reservation("Secret", names.database_secret, names.namespace),
            Reservation("PostgresRole", names.database_role),
            Reservation("PostgresDatabase", names.database),
        )

    async def run(self, ctx: Context) -> Progress:
        if ctx.plan is None:
            raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
        names = ctx.names
        ctx.heartbeat("writing the database credentials", None)
        password = await password_of(ctx, names.database_secret, role=names.database_role)
        ctx.heartbeat(f"creating database {names.database}", 30)
        await ctx.ports.storage.ensure_database(
            names.database,
            owner=names.database_role,
            password=password,
            connection_limit=ctx.plan.spec.storage.connection_limit,
            tag=ctx.uid,
        )
        return Done(f"database {names.database} reserved")

    async def compensate(self, ctx: Context) -> Progress:
        names = ctx.names
        return await release_storage(
            ctx, names.database_role, ObjectRef("v1", "Secret", names.database_secret, names.namespace)
        )
