"""allocate-identity-store: a schema with a role of its own, and the key pair that signs the tenant's tokens."""

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.ports import Manifest, ObjectRef
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.credentials import create_or_adopt, entry, password_of, release_storage, secret
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, Progress

_PRIVATE_KEY = "private-key.pem"
_COORDINATE_BYTES = 32


class AllocateIdentityStore(Activity):
    """The signing key is generated once; the published key set is always derived from the key that the Secret holds."""

    name: ClassVar[str] = ActivityName.ALLOCATE_IDENTITY_STORE
    phase: ClassVar[str] = PhaseName.ALLOCATE
    timeout: ClassVar[timedelta] = timedelta(minutes=5)
    renews: ClassVar[bool] = True

    def reserves(self, names: Names) -> Sequence[Reservation]:
        return (
            Reservation("Secret", names.identity_secret, names.namespace),
            Reservation("PostgresRole", names.identity_role),
            Reservation("PostgresSchema", f"{names.database}.{names.identity_schema}"),
            Reservation("Secret", names.signing_secret, names.namespace),
            Reservation("ConfigMap", names.jwks, names.namespace),
        )

    async def run(self, ctx: Context) -> Progress:
        await renew_login(ctx)
        ctx.heartbeat("publishing the signing key", 75)
        key, keys = published(ctx, await create_or_adopt(ctx, _fresh_key(ctx)))
        await _store(ctx, key)
        await _store(ctx, keys)
        names = ctx.names
        return Done(f"identity store {names.identity_schema} reserved in database {names.database}")

    async def compensate(self, ctx: Context) -> Progress:
        """The schema goes with the database, which only the tenant's own role would be let into."""
        names = ctx.names
        return await release_storage(
            ctx,
            names.identity_role,
            ObjectRef("v1", "ConfigMap", names.jwks, names.namespace),
            ObjectRef("v1", "Secret", names.signing_secret, names.namespace),
            ObjectRef("v1", "Secret", names.identity_secret, names.namespace),
        )


def public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public half as a JSON Web Key (RFC 7517); its `kid` is the thumbprint of RFC 7638."""
    numbers = key.public_key().public_numbers()
    required = {"crv": "P-256", "kty": "EC", "x": _base64url(numbers.x), "y": _base64url(numbers.y)}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    thumbprint = urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()
    return required | {"kid": thumbprint, "alg": "ES256", "use": "sig"}


def _base64url(coordinate: int) -> str:
    return urlsafe_b64encode(coordinate.to_bytes(_COORDINATE_BYTES)).rstrip(b"=").decode()


async def renew_login(ctx: Context) -> None:
    """The schema with the role that owns it, and the Secret to log in with."""
    if ctx.plan is None:
        raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
    names = ctx.names
    ctx.heartbeat("writing the identity store's credentials", None)
    password = await password_of(ctx, names.identity_secret, role=names.identity_role, schema=names.identity_schema)
    ctx.heartbeat(f"creating schema {names.identity_schema} in database {names.database}", 25)
    await ctx.ports.storage.ensure_schema(
        names.database,
        schema=names.identity_schema,
        role=names.identity_role,
        password=password,
        connection_limit=ctx.plan.spec.storage.connection_limit,
        tag=ctx.uid,
    )


def _fresh_key(ctx: Context) -> Manifest:
    fresh = ec.generate_private_key(ec.SECP256R1())
    return _signing_secret(ctx, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), fresh)


def published(ctx: Context, stored: Manifest) -> tuple[Manifest, Manifest]:
    """The Secret with the signing key as it should be, and the ConfigMap that publishes it, for the key that is stored.
    Rejected if that is none."""
    pem = entry(stored, _PRIVATE_KEY)
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Rejected(
            f"Secret {ctx.names.namespace}/{ctx.names.signing_secret} holds no P-256 private key; "
            "delete the Secret and retry"
        )
    return _signing_secret(ctx, pem, key), _key_set(ctx, public_jwk(key))


def _signing_secret(ctx: Context, pem: str, key: ec.EllipticCurvePrivateKey) -> Manifest:
    content = {_PRIVATE_KEY: pem, "kid": public_jwk(key)["kid"], "alg": "ES256"}
    return secret(ctx, ctx.names.signing_secret, content)


def _key_set(ctx: Context, jwk: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ctx.names.jwks, "namespace": ctx.names.namespace, "labels": ctx.names.labels()},
        "data": {"jwks.json": json.dumps({"keys": [jwk]}, sort_keys=True)},
    }


async def _store(ctx: Context, wanted: Manifest) -> None:
    stored = await create_or_adopt(ctx, wanted)
    if stored.get("data") != wanted["data"]:
        await ctx.ports.cluster.apply(wanted)
