"""What a tenant's namespace keeps about its storage: made once, adopted ever after, never taken from another tenant."""

import binascii
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from urllib.parse import quote

from tenant_operator.api.names import LABEL_TENANT_UID
from tenant_operator.ports import Manifest, ObjectRef
from tenant_operator.provisioning.activity import Context
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tenant_operator.saga.step import Done, NotYet, Progress


def new_password() -> str:
    """A password for a database role: 256 random bits, safe in a URI."""
    return secrets.token_urlsafe(32)


def login(ctx: Context, *, role: str, password: str, schema: str | None = None) -> dict[str, str]:
    """How a workload connects as `role`: host, port, database, username, password and the same as a uri; sslmode and
    ca.crt where the platform's own connection has them."""
    endpoint, database = ctx.ports.storage.endpoint, ctx.names.database
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    user = f"{quote(role, safe='')}:{quote(password, safe='')}"
    query = f"?sslmode={quote(endpoint.sslmode, safe='')}" if endpoint.sslmode else ""
    content = {
        "host": endpoint.host,
        "port": str(endpoint.port),
        "database": database,
        "username": role,
        "password": password,
        "uri": f"postgresql://{user}@{host}:{endpoint.port}/{quote(database, safe='')}{query}",
    }
    more = {"sslmode": endpoint.sslmode, "ca.crt": endpoint.authority, "schema": schema}
    return content | {key: value for key, value in more.items() if value is not None}


def secret(ctx: Context, name: str, content: Mapping[str, str]) -> Manifest:
    """A Secret of the tenant's namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": ctx.names.namespace, "labels": ctx.names.labels()},
        "type": "Opaque",
        "data": {key: b64encode(value.encode()).decode() for key, value in content.items()},
    }


async def create_or_adopt(ctx: Context, manifest: Manifest) -> Manifest:
    """Create the object, or return the tenant's own of that name as it is stored."""
    stored = await ctx.ports.cluster.create(manifest)
    what = f"{manifest['kind']} {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
    if not _belongs(ctx, stored):
        raise OwnershipConflict(f"{what} exists and does not belong to this tenant")
    if stored["metadata"].get("deletionTimestamp"):
        raise Unavailable(f"{what} is still being deleted")
    return stored


def entry(stored: Manifest, key: str) -> str:
    """A value of a stored Secret. Missing or damaged: Rejected, with the way out."""
    try:
        value = b64decode((stored.get("data") or {})[key], validate=True).decode()
    except (KeyError, binascii.Error, UnicodeDecodeError):
        value = ""
    if not value:
        metadata = stored["metadata"]
        raise Rejected(
            f"Secret {metadata['namespace']}/{metadata['name']} has no usable {key!r}; delete the Secret and retry"
        )
    return value


async def password_of(ctx: Context, name: str, *, role: str, schema: str | None = None) -> str:
    """The password of a role, made once and kept in the Secret `name`; the rest of the Secret follows the platform."""
    fresh = login(ctx, role=role, password=new_password(), schema=schema)
    stored = await create_or_adopt(ctx, secret(ctx, name, fresh))
    password = entry(stored, "password")
    wanted = secret(ctx, name, login(ctx, role=role, password=password, schema=schema))
    if stored["data"] != wanted["data"]:
        await ctx.ports.cluster.apply(wanted)
    return password


async def release_storage(ctx: Context, role: str, *refs: ObjectRef) -> Progress:
    """Drop the tenant's database, and `role`; then delete the objects that told of them."""
    database = ctx.names.database
    ctx.heartbeat(f"dropping database {database} and role {role}", None)
    try:
        dropped = await ctx.ports.storage.release(database, role=role, tag=ctx.uid)
        detail = f"{' and '.join(dropped)} dropped" if dropped else f"role {role} was gone already"
    except OwnershipConflict as conflict:
        # What made the allocation fail is not ours to release, and must not hold the tenant back.
        detail = f"nothing of this tenant to drop: {conflict.message}"
    progress = await _delete(ctx, *refs)
    return Done(detail) if isinstance(progress, Done) else progress


async def _delete(ctx: Context, *refs: ObjectRef) -> Progress:
    """Delete what is the tenant's own among `refs`, all of them at once; Done when they are gone."""
    going: list[str] = []
    for ref in refs:
        stored = await ctx.ports.cluster.get(ref)
        if stored is not None and _belongs(ctx, stored) and not await ctx.ports.cluster.delete(ref):
            going.append(str(ref))
    return NotYet(f"{', '.join(going)} is still being deleted") if going else Done("deleted")


def _belongs(ctx: Context, stored: Manifest) -> bool:
    labels = stored["metadata"].get("labels") or {}
    return bool(labels.get(LABEL_TENANT_UID) == ctx.uid)
