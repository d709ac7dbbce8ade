"""What an unsuccessful answer of the API server means to a saga."""

import json
from typing import Any, Final

from pydantic import ValidationError

from tenant_operator.saga.errors import ActivityError, Outage, Rejected, Unavailable
from tenant_operator.text import cut

MESSAGE_LIMIT: Final = 500

# What is wrong with the object in the request, although the API server reports it as an error of its own.
_BAD_OBJECT: Final = (
    "failed to create typed patch object",
    "failed to convert new",
    "etcdserver: request is too large",
)
# Refusals that end when a controller has caught up: the usage of a new quota, the account of a new namespace.
_CATCHING_UP: Final = ("status unknown for quota", "error looking up service account")
# 401: credentials are about to be renewed; 408, 429: it has no time for anybody. All from 500 likewise.
_AWAY: Final = frozenset({401, 408, 429})
# Answers to a request that carried data, whose message may quote that data.
_QUOTING: Final = frozenset({400, 422, 500})


def failure(status: int, content: bytes, subject: str, *, confidential: bool = False) -> ActivityError:
    """The error for an HTTP status of 400 and above with the `Status` object (or text) that came with it.

    `subject` names the object. With `confidential` the API server's words are left out where they can quote the
    object's content.
    """
    body = _status_object(content)
    text = str(body.get("message") or f"HTTP {status}")
    words = _fields(body, status) if confidential and status in _QUOTING else text
    message = bounded(f"{subject}: {words}")
    if status in _AWAY or (status >= 500 and not text.startswith(_BAD_OBJECT)):
        return Outage(message)
    return Unavailable(message) if _can_heal(status, text, body) else Rejected(message)


def bounded(message: str) -> str:
    """The message, cut with an ellipsis if it is longer than people want to read."""
    return cut(message, MESSAGE_LIMIT)


def unreadable(error: ValidationError) -> str:
    """Which fields of a stored object are not what this version expects, on one bounded line."""
    fields = error.errors(include_url=False, include_input=False, include_context=False)
    return bounded("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in fields))


def _can_heal(status: int, text: str, body: dict[str, Any]) -> bool:
    if status == 403:
        terminating = any(cause.get("reason") == "NamespaceTerminating" for cause in _causes(body))
        return terminating or any(phrase in text for phrase in _CATCHING_UP)
    return status in (409, 410)  # someone wrote at the same time; asked at a bad moment


def _status_object(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": content.decode(errors="replace").strip()}


def _causes(body: dict[str, Any]) -> list[dict[str, Any]]:
    return (body.get("details") or {}).get("causes") or []


def _fields(body: dict[str, Any], status: int) -> str:
    fields = ", ".join(cause["field"] for cause in _causes(body) if cause.get("field"))
    reason = body.get("reason") or f"HTTP {status}"
    return f"{reason}: {fields}" if fields else f"{reason} (the content is confidential)"
