"""The webhooks: each handler turns what kopf received into a question to the domain, and its answer into HTTP."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias, TypeVar, cast

import kopf
from pydantic import ValidationError

from tenant_operator.api.names import API_VERSION
from tenant_operator.api.organization import Organization
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.admission import Admission
from tenant_operator.provisioning.admission_rules import INVALID, Refusal
from tenant_operator.provisioning.ports import Caller, TenantKey
from tenant_operator.saga.errors import ActivityError

STAMP_TENANT: Final = "stamp-tenant"
CHECK_TENANT: Final = "check-tenant"
CHECK_PLAN: Final = "check-plan"
CHECK_ORGANIZATION: Final = "check-organization"

_SECONDS: Final = 4.0
"""Less than the API server waits: its own words for a timeout help nobody."""
_UNAVAILABLE: Final = 503
_INTERNAL: Final = 500
_RENEWAL_CHECK_SECONDS: Final = 2.0
_NEVER: Final = 1e7
"""Seconds. kopf would restart its server for a new certificate, and turn requests away meanwhile."""

AnyResource = TypeVar("AnyResource", Organization, Tenant)
Operation: TypeAlias = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
_WRITES: Final[tuple[Operation, ...]] = ("CREATE", "UPDATE")
_REMOVAL: Final[tuple[Operation, ...]] = ("DELETE",)

_log = logging.getLogger(__name__)


class CertificateError(Exception):
    """The certificate of the webhooks, or its key, cannot be used; the message names the files."""


class AdmissionServer:
    """kopf's webhook server, with a certificate that is read again when its files change: nobody notices."""

    def __init__(
        self, host: str, port: int, certificate: Path, key: Path, *, check_seconds: float = _RENEWAL_CHECK_SECONDS
    ) -> None:
        """Raises CertificateError."""
        self.is_listening = False
        self._host = host
        self._port = port
        self._certificate = certificate
        self._key = key
        self._check_seconds = check_seconds
        self._seen: object = None
        self._current = _context()
        self._load()
        # A pair of files that do not match ruins a context in use: each connection gets the newest good one instead.
        self._door = _context()
        self._door.sni_callback = self._choose

    async def __call__(self, serve: Any) -> AsyncIterator[Any]:
        """Serve until cancelled; what it yields is of use to a managed configuration only."""
        server = kopf.WebhookServer(
            addr=self._host,
            port=self._port,
            context=self._door,
            certfile=self._certificate,
            pkeyfile=self._key,
            file_check_interval=_NEVER,
        )
        renewal = asyncio.create_task(self._renew())
        try:
            async with server:
                async for client_config in server(serve):
                    self.is_listening = True
                    yield client_config
        finally:
            self.is_listening = False
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._check_seconds)
            try:
                if self._load():
                    _log.info("the certificate of the webhooks was renewed")
            except CertificateError as error:
                # Half of a renewal may be written; the certificate in use goes on being used.
                _log.warning("%s", error)

    def _choose(self, connection: ssl.SSLObject, *_: object) -> None:
        connection.context = self._current

    def _load(self) -> bool:
        """Take the files over if they changed; whether they did."""
        try:
            # What a Secret's volume shows are links that are moved: the files behind them differ in their inodes.
            files = tuple((stat.st_ino, stat.st_mtime_ns) for stat in (self._certificate.stat(), self._key.stat()))
            if files == self._seen:
                return False
            self._seen = files
            context = _context()
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            cause = f"{self._certificate} with key {self._key}: {error}"
            raise CertificateError(f"the certificate of the webhooks cannot be used: {cause}") from error
        self._current = context
        return True


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


def install(
    admission: Admission,
    server: AdmissionServer,
    registry: kopf.OperatorRegistry,
    settings: kopf.OperatorSettings,
    *,
    seconds: float = _SECONDS,
) -> None:
    """Add the webhooks to an operator; a question that takes longer than so many seconds is answered with no.

    Their configuration in the cluster is not kopf's to manage: replicas would overwrite each other's.
    """
    settings.admission.server = server
    settings.admission.managed = None
    _quieten()

    @kopf.on.mutate(API_VERSION, "tenants", id=STAMP_TENANT, operations=_WRITES, registry=registry)
    async def stamp(userinfo: kopf.UserInfo, patch: kopf.Patch, **request: Any) -> None:
        old, new = request["old"], request["new"]
        try:
            stamps = admission.stamps(None if old is None else dict(old), dict(new), _caller(userinfo))
        except Exception:
            _refuse(_unexpected("stamping a Tenant"))
        if stamps:
            patch["metadata"] = stamps

    @kopf.on.validate(API_VERSION, "tenants", id=CHECK_TENANT, operations=(*_WRITES, *_REMOVAL), registry=registry)
    async def check(name: str, namespace: str | None, userinfo: kopf.UserInfo, **request: Any) -> None:
        old, new, caller, subject = request["old"], request["new"], _caller(userinfo), f"Tenant {namespace}/{name}"
        if new is None:
            key, organization = TenantKey(namespace or "", name), _organization_of(old)
            await _ask(admission.removal(key, organization, caller), subject, caller, seconds)
            return
        before, after = None if old is None else _parsed(Tenant, old), _parsed(Tenant, new)
        await _ask(admission.write(before, after, caller), subject, caller, seconds)

    @kopf.on.validate(API_VERSION, "plans", id=CHECK_PLAN, operations=_REMOVAL, registry=registry)
    async def check_plan(name: str, userinfo: kopf.UserInfo, **_: Any) -> None:
        caller = _caller(userinfo)
        await _ask(admission.removal_of_plan(name, caller), f"Plan {name}", caller, seconds)

    @kopf.on.validate(
        API_VERSION, "organizations", id=CHECK_ORGANIZATION, operations=(*_WRITES, *_REMOVAL), registry=registry
    )
    async def check_organization(name: str, userinfo: kopf.UserInfo, **request: Any) -> None:
        old, new, caller, subject = request["old"], request["new"], _caller(userinfo), f"Organization {name}"
        if new is None:
            await _ask(admission.removal_of_organization(name, caller), subject, caller, seconds)
            return
        before, after = None if old is None else _parsed(Organization, old), _parsed(Organization, new)
        await _ask(admission.write_of_organization(before, after, caller), subject, caller, seconds)


async def _ask(judgement: Awaitable[Refusal | None], subject: str, caller: Caller, seconds: float) -> None:
    """Raises AdmissionError unless the judgement is that nothing speaks against it. No answer is a no."""
    try:
        async with asyncio.timeout(seconds):
            refusal = await judgement
    except TimeoutError:
        refusal = Refusal(_UNAVAILABLE, f"{subject} could not be checked within {seconds:g} s; try again")
    except ActivityError as error:
        refusal = Refusal(_UNAVAILABLE, f"{subject} could not be checked; try again: {error}")
    except Exception:
        refusal = _unexpected(f"checking {subject}")
    if refusal is not None:
        _log.info("refused %s to %s: %s", subject, caller.name, refusal.message)
        _refuse(refusal)


def _refuse(refusal: Refusal) -> NoReturn:
    raise kopf.AdmissionError(refusal.message, code=refusal.code) from None


def _unexpected(doing: str) -> Refusal:
    _log.exception("%s went wrong", doing)
    return Refusal(_INTERNAL, f"{doing} went wrong in the operator; its log says why")


def _parsed(kind: type[AnyResource], body: Any) -> AnyResource:
    """The object that a request brings. Raises AdmissionError."""
    try:
        return kind.model_validate(dict(body))
    except ValidationError as error:
        _refuse(Refusal(INVALID, _unreadable(error)))


def _organization_of(body: Any) -> str:
    """The organisation that a Tenant names, whatever else it says: one that cannot be read can be deleted."""
    spec = dict(body or {}).get("spec")
    return str(spec.get("organization") or "") if isinstance(spec, Mapping) else ""


def _unreadable(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems[:5])


def _caller(userinfo: kopf.UserInfo) -> Caller:
    raw = cast(dict[str, Any], userinfo)
    return Caller(
        name=str(raw.get("username") or ""),
        groups=tuple(raw.get("groups") or ()),
        uid=str(raw.get("uid") or ""),
        extra=dict(raw.get("extra") or {}),
    )


class _Refused(logging.Filter):
    """Keeps what kopf says of webhooks out of the log: to it, a refusal is the failure of a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info) or not str(record.msg).startswith("Webhook ")


def _quieten() -> None:
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # a line for every write of every tenant
    logger = logging.getLogger("kopf.objects")
    if not any(isinstance(each, _Refused) for each in logger.filters):
        logger.addFilter(_Refused())
