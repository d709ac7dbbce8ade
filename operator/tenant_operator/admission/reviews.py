"""The webhooks: what the API server sends becomes a question to the domain, and the domain's word an answer to it.

Everything but the judging itself happens in the loop of the webhooks' server. A judgement reads what the operator
knows, so it is made in the operator's loop.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tenant_operator.admission.judge import Admission
from tenant_operator.admission.rules import INVALID, Refusal
from tenant_operator.api.organization import Organization
from tenant_operator.api.resource import Resource
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Caller, TenantKey
from tenant_operator.saga.errors import ActivityError

STAMP_TENANT: Final = "stamp-tenant"
CHECK_TENANT: Final = "check-tenant"
CHECK_PLAN: Final = "check-plan"
CHECK_ORGANIZATION: Final = "check-organization"

_SECONDS: Final = 4.0
"""Less than the API server waits: its own words for a timeout help nobody."""
_UNAVAILABLE: Final = 503
_INTERNAL: Final = 500
_OK: Final = 200
_BAD_REQUEST: Final = 400
_VERSION: Final = "admission.k8s.io/v1"

Operation: TypeAlias = Literal["CREATE", "UPDATE", "DELETE"]
_WRITES: Final[tuple[Operation, ...]] = ("CREATE", "UPDATE")
_REMOVAL: Final[tuple[Operation, ...]] = ("DELETE",)

AnyResource = TypeVar("AnyResource", bound=Resource)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """A write that the API server asks about. `old` is None for a creation, `new` for a removal; raw objects both."""

    operation: Operation
    namespace: str
    name: str
    caller: Caller
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None

    def before(self, model: type[AnyResource]) -> AnyResource | None:
        """The object as it is. Raises ValidationError."""
        return None if self.old is None else model.model_validate(self.old)

    def after(self, model: type[AnyResource]) -> AnyResource:
        """The object as it would be. Raises ValidationError."""
        return model.model_validate(self.new)


Judgement = Callable[[Question], Coroutine[Any, Any, Refusal | None]]
"""Reads the question at once, and judges in the operator's loop. May raise ValidationError, then ActivityError."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Which writes of which kind (by its plural) are asked about, and who answers with the rest of a response."""

    plural: str
    operations: tuple[Operation, ...]
    answer: Callable[[Question], Awaitable[dict[str, Any]]]
    mutates: bool = False


class Webhooks:
    """All webhooks of the operator by their names. A question that takes longer than `seconds` is answered with no."""

    def __init__(self, admission: Admission, loop: asyncio.AbstractEventLoop, *, seconds: float = _SECONDS) -> None:
        self._admission = admission
        self._loop = loop
        self._seconds = seconds
        self.by_name: Mapping[str, Webhook] = {
            STAMP_TENANT: Webhook("tenants", _WRITES, self._stamp, mutates=True),
            CHECK_TENANT: Webhook("tenants", (*_WRITES, *_REMOVAL), self._judged("Tenant", self._tenant)),
            CHECK_PLAN: Webhook(
                "plans",
                _REMOVAL,
                self._judged("Plan", lambda asked: admission.removal_of_plan(asked.name, asked.caller)),
            ),
            CHECK_ORGANIZATION: Webhook(
                "organizations", (*_WRITES, *_REMOVAL), self._judged("Organization", self._organization)
            ),
        }

    def routes(self, token: str) -> dict[str, Callable[[bytes], Awaitable[tuple[int, bytes]]]]:
        """What answers at which path: the name of the webhook, behind the token if there is one."""
        return {
            f"/{token}/{name}" if token else f"/{name}": self._over_http(webhook)
            for name, webhook in self.by_name.items()
        }

    def _over_http(self, webhook: Webhook) -> Callable[[bytes], Awaitable[tuple[int, bytes]]]:
        async def handler(body: bytes) -> tuple[int, bytes]:
            try:
                uid, question = _read(body, webhook)
            except ValueError as error:  # a ValidationError is one as well
                return _BAD_REQUEST, json.dumps({"error": f"no {_VERSION} AdmissionReview: {_cause(error)}"}).encode()
            response = {"uid": uid, "allowed": True, **await webhook.answer(question)}
            review = {"apiVersion": _VERSION, "kind": "AdmissionReview", "response": response}
            return _OK, json.dumps(review).encode()

        return handler

    async def _stamp(self, asked: Question) -> dict[str, Any]:
        new = asked.new or {}
        try:
            stamps = self._admission.stamps(asked.old, new, asked.caller)
        except Exception:
            return _refused(_unexpected("stamping a Tenant"))
        if not stamps:
            return {}
        patch = json.dumps(_json_patch(stamps, new)).encode()
        return {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}

    def _tenant(self, asked: Question) -> Coroutine[Any, Any, Refusal | None]:
        if asked.operation == "DELETE":
            key = TenantKey(asked.namespace, asked.name)
            return self._admission.removal(key, _organization_of(asked.old), asked.caller)
        return self._admission.write(asked.before(Tenant), asked.after(Tenant), asked.caller)

    def _organization(self, asked: Question) -> Coroutine[Any, Any, Refusal | None]:
        if asked.operation == "DELETE":
            return self._admission.removal_of_organization(asked.name, asked.caller)
        before, after = asked.before(Organization), asked.after(Organization)
        return self._admission.write_of_organization(before, after, asked.caller)

    def _judged(self, kind: str, judgement: Judgement) -> Callable[[Question], Awaitable[dict[str, Any]]]:
        async def answer(asked: Question) -> dict[str, Any]:
            subject = f"{kind} {asked.namespace}/{asked.name}" if asked.namespace else f"{kind} {asked.name}"
            refusal = await self._ask(judgement, asked, subject)
            if refusal is None:
                return {}
            _log.info("refused %s to %s: %s", subject, asked.caller.name, refusal.message)
            return _refused(refusal)

        return answer

    async def _ask(self, judgement: Judgement, asked: Question, subject: str) -> Refusal | None:
        """No answer is a no."""
        try:
            coroutine = judgement(asked)
        except ValidationError as error:
            return Refusal(INVALID, _cause(error))
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            return Refusal(_UNAVAILABLE, f"{subject} could not be checked: the operator is ending; try again")
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            return Refusal(_UNAVAILABLE, f"{subject} could not be checked within {self._seconds:g} s; try again")
        except ActivityError as error:
            return Refusal(_UNAVAILABLE, f"{subject} could not be checked; try again: {error}")
        except Exception:
            return _unexpected(f"checking {subject}")


class _Part(BaseModel):
    """A part of an AdmissionReview; what is not read here is not kept."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class _User(_Part):
    username: str = ""
    groups: tuple[str, ...] | None = None
    uid: str = ""
    extra: dict[str, tuple[str, ...]] | None = None


class _Request(_Part):
    uid: str
    operation: Operation
    name: str = ""
    namespace: str = ""
    user_info: _User
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None


class _Review(_Part):
    api_version: Literal["admission.k8s.io/v1"]
    kind: Literal["AdmissionReview"]
    request: _Request = Field(repr=False)


def _read(body: bytes, webhook: Webhook) -> tuple[str, Question]:
    """The UID of a review, and what it asks. Raises ValueError."""
    try:
        asked = _Review.model_validate(json.loads(body)).request
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if asked.operation not in webhook.operations:
        raise ValueError(f"request.operation: nobody asks about {asked.operation} here")
    if asked.operation != "DELETE" and asked.object is None:
        raise ValueError("request.object: missing")
    if asked.operation == "UPDATE" and asked.old_object is None:
        raise ValueError("request.oldObject: missing")
    user = asked.user_info
    caller = Caller(name=user.username, groups=user.groups or (), uid=user.uid, extra=user.extra or {})
    return asked.uid, Question(
        asked.operation, asked.namespace, asked.name, caller, old=asked.old_object, new=asked.object
    )


def _organization_of(body: Mapping[str, Any] | None) -> str:
    """The organisation that a Tenant names, whatever else it says: one that cannot be read can be deleted."""
    spec = (body or {}).get("spec")
    return str(spec.get("organization") or "") if isinstance(spec, Mapping) else ""


def _json_patch(stamps: Mapping[str, Any], body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The merge patch of a metadata that has annotations and finalizers only, as a JSON patch of the object."""
    metadata = body.get("metadata") or {}
    patch: list[dict[str, Any]] = []
    if (annotations := stamps.get("annotations")) is not None:
        if not metadata.get("annotations"):
            patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        for name, value in annotations.items():
            path = f"/metadata/annotations/{name.replace('~', '~0').replace('/', '~1')}"
            patch.append(
                {"op": "remove", "path": path} if value is None else {"op": "add", "path": path, "value": value}
            )
    if (finalizers := stamps.get("finalizers")) is not None:
        patch.append({"op": "add", "path": "/metadata/finalizers", "value": finalizers})
    return patch


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {"allowed": False, "status": {"code": refusal.code, "message": refusal.message}}


def _unexpected(doing: str) -> Refusal:
    _log.exception("%s went wrong", doing)
    return Refusal(_INTERNAL, f"{doing} went wrong in the operator; its log says why")


def _cause(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in problems[:5])
