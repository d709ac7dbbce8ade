"""What holds a tenant's data, and what opens it: what of that is lost for good, and what can be made again."""

from collections.abc import Sequence

from tenant_operator.api.names import LABEL_TENANT_UID
from tenant_operator.ports import Manifest, ObjectRef
from tenant_operator.provisioning.activities.allocate_identity_store import (
    AllocateIdentityStore,
    published,
    renew_login,
)
from tenant_operator.provisioning.activities.allocate_storage import AllocateStorage
from tenant_operator.provisioning.activity import Context, Ports
from tenant_operator.provisioning.credentials import entry, login
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import all_of, belongs_to
from tenant_operator.saga.errors import OwnershipConflict


async def lost(names: Names, ports: Ports) -> list[str]:
    """What a tenant that has served must have, because it cannot be made again without loss, and has not: its database
    with the roles that own what is in it, and the key that its tokens are signed with. Raises Unavailable, Rejected."""
    there = {(item.kind, item.name) for item in await ports.storage.inventory(names.uid)}
    wanted = (
        ("PostgresDatabase", names.database),
        ("PostgresRole", names.database_role),
        ("PostgresRole", names.identity_role),
    )
    missing = [f"{kind} {name}" for kind, name in wanted if (kind, name) not in there]
    key = signing_key(names)
    return missing if await ports.cluster.get(key) is not None else [*missing, str(key)]


def signing_key(names: Names) -> ObjectRef:
    """The Secret with the key that the tenant's tokens are signed with."""
    return ObjectRef("v1", "Secret", names.signing_secret, names.namespace)


def way_out(names: Names, missing: Sequence[str]) -> str:
    """What is lost, and what a person can do about it."""
    is_one, listed = len(missing) == 1, ", ".join(missing)
    told = [
        f"{listed} {'is' if is_one else 'are'} gone, and cannot be made again without loss. Next: restore "
        f"{'it' if is_one else 'them'} from a backup"
    ]
    if missing == [str(signing_key(names))]:
        where = f"{names.signing_secret} -n {names.namespace}"
        told.append(
            "put a new key there, with which every token that was issued is invalid: "
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out private-key.pem && "
            f"kubectl create secret generic {where} --from-file=private-key.pem && "
            f"kubectl label secret {where} {LABEL_TENANT_UID}={names.uid}"
        )
    return "; or ".join([*told, "give the tenant up with desiredState: Decommissioned"])


async def damaged(ctx: Context) -> list[ObjectRef]:
    """What opens the data and is gone, or is not as it was made: the Secrets with the logins and with the signing key,
    and the published half of that. Raises Unavailable; Rejected for what only a person can mend."""
    names, namespace = ctx.names, ctx.names.namespace
    refs = (
        ObjectRef("v1", "Secret", names.database_secret, namespace),
        ObjectRef("v1", "Secret", names.identity_secret, namespace),
        signing_key(names),
        ObjectRef("v1", "ConfigMap", names.jwks, namespace),
    )
    database, identity, key, keys = await all_of(ctx.ports.cluster.get(ref) for ref in refs)
    for ref, stored in zip(refs, (database, identity, key, keys), strict=True):
        if stored is not None and not belongs_to(stored, names):
            raise OwnershipConflict(f"{ref} does not belong to this tenant")
    found = []
    if not _opens(ctx, database, names.database_role):
        found.append(refs[0])
    if not _opens(ctx, identity, names.identity_role, names.identity_schema):
        found.append(refs[1])
    if key is not None:
        wanted_key, wanted_keys = published(ctx, key)
        if key["data"] != wanted_key["data"]:
            found.append(refs[2])
        if keys is None or keys.get("data") != wanted_keys["data"]:
            found.append(refs[3])
    return found


def _opens(ctx: Context, stored: Manifest | None, role: str, schema: str | None = None) -> bool:
    """Whether a Secret is what logs in as the role."""
    if stored is None:
        return False
    wanted = login(ctx, role=role, password=entry(stored, "password"), schema=schema)
    return {key: entry(stored, key) for key in stored.get("data") or {}} == wanted


async def renew(ctx: Context) -> None:
    """Make again what opens the data: what is there of it stays, a fresh password is set in PostgreSQL as well. Run
    again, it changes nothing. Never run where something is lost but the signing key: it would be made anew."""
    await AllocateStorage().run(ctx)
    if await ctx.ports.cluster.get(signing_key(ctx.names)) is None:
        await renew_login(ctx)
    else:
        await AllocateIdentityStore().run(ctx)
