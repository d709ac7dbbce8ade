"""Kubernetes Events on a Tenant, posted in the background."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from tenant_operator.api.names import API_VERSION, GROUP
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock, Notice
from tenant_operator.saga.errors import ActivityError

from .client import MERGE_PATCH, KubernetesClient
from .resources import collection_path

_log = logging.getLogger(__name__)

CONTROLLER: Final = f"{GROUP}/tenant-operator"

_EVENTS: Final = "events.k8s.io/v1"
_NOTE_BYTES: Final = 1024
_NAME_BYTES: Final = 128
_REMEMBERED_EVENTS: Final = 1000
_SERIES_WINDOW: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class _Happening:
    """A notice with the time and the Tenant that it is about."""

    at: datetime
    namespace: str
    regarding: tuple[tuple[str, str], ...]
    action: str
    reason: str
    note: str
    warning: bool

    @property
    def subject(self) -> tuple[object, ...]:
        """What two happenings share that are the same news again."""
        return (self.regarding, self.action, self.reason, self.note, self.warning)


@dataclass(frozen=True, slots=True)
class _Posted:
    """An Event in the cluster that further happenings of the same kind are counted on."""

    name: str
    count: int
    last: datetime


class KubernetesNotifier:
    """`ports.Notifier` over events.k8s.io/v1.

    `publish` only puts notices into a queue, which one task empties. What finds the queue full is counted in
    `dropped`, what the API server does not take in `failed`. The same news within ten minutes is counted on one
    Event, as a series.
    """

    def __init__(self, client: KubernetesClient, clock: Clock, *, instance: str, queue_size: int = 1000) -> None:
        self.dropped = 0
        self.failed = 0
        self._client = client
        self._clock = clock
        self._instance = _cut(instance, _NAME_BYTES)
        self._queue: asyncio.Queue[_Happening] = asyncio.Queue(queue_size)
        self._posted: OrderedDict[tuple[object, ...], _Posted] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to post."""
        self._worker = asyncio.create_task(self._post_all(), name="kubernetes-events")

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Post what is queued, for at most `timeout_seconds`, and stop; what is left then is dropped."""
        if self._worker is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._queue.join()
        self.dropped += self._queue.qsize()
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        self._worker = None

    async def publish(self, tenant: Tenant, notices: Sequence[Notice]) -> None:
        """Queue the notices in order and return at once."""
        metadata = tenant.metadata
        regarding = {
            "apiVersion": API_VERSION,
            "kind": tenant.kind,
            "namespace": metadata.namespace or "",
            "name": metadata.name,
            "uid": metadata.uid,
        }
        run = tenant.status.run
        for notice in notices:
            happening = _Happening(
                at=self._clock.now(),
                namespace=regarding["namespace"],
                regarding=tuple(regarding.items()),
                action=str(run.kind) if run is not None else "Reconcile",
                reason=_cut(notice.reason, _NAME_BYTES),
                note=_cut(notice.message, _NOTE_BYTES),
                warning=notice.warning,
            )
            try:
                self._queue.put_nowait(happening)
            except asyncio.QueueFull:
                self.dropped += 1

    async def _post_all(self) -> None:
        while True:
            happening = await self._queue.get()
            try:
                await self._post(happening)
            except ActivityError as error:
                self.failed += 1
                _log.warning("Event %s cannot be posted: %s", happening.reason, error.message)
            except asyncio.CancelledError:
                self.dropped += 1
                raise
            except Exception:  # a defect; the next one may be posted all the same
                self.failed += 1
                _log.exception("Event %s cannot be posted", happening.reason)
            finally:
                self._queue.task_done()

    async def _post(self, happening: _Happening) -> None:
        earlier = self._posted.pop(happening.subject, None)
        if earlier is None or happening.at - earlier.last > _SERIES_WINDOW:
            posted = await self._create(happening)
        else:
            posted = await self._repeat(happening, earlier)
        self._posted[happening.subject] = posted
        while len(self._posted) > _REMEMBERED_EVENTS:
            self._posted.popitem(last=False)

    async def _create(self, happening: _Happening) -> _Posted:
        regarding = dict(happening.regarding)
        name = f"{regarding['name']}.{uuid4().hex[:16]}"
        body: dict[str, Any] = {
            "apiVersion": _EVENTS,
            "kind": "Event",
            "metadata": {"name": name, "namespace": happening.namespace},
            "eventTime": _micro_time(happening.at),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": regarding,
            "action": happening.action,
            "reason": happening.reason,
            "note": happening.note,
            "type": "Warning" if happening.warning else "Normal",
        }
        # 409: an earlier try of this request arrived after all.
        await self._client.request("POST", _path(happening), subject=f"Event {name}", body=body, expected=(409,))
        return _Posted(name, 1, happening.at)

    async def _repeat(self, happening: _Happening, earlier: _Posted) -> _Posted:
        series = {"count": earlier.count + 1, "lastObservedTime": _micro_time(happening.at)}
        answer = await self._client.request(
            "PATCH",
            f"{_path(happening)}/{earlier.name}",
            subject=f"Event {earlier.name}",
            body={"series": series},
            content_type=MERGE_PATCH,
            expected=(404,),
        )
        if answer.status == 404:
            return await self._create(happening)
        return _Posted(earlier.name, earlier.count + 1, happening.at)


def _path(happening: _Happening) -> str:
    return collection_path(_EVENTS, "Event", happening.namespace)


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8: that is how the API server counts."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[: limit - len("…".encode())].decode(errors="ignore") + "…"
