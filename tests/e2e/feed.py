"""Every version of every Tenant, from one `kubectl get --watch` that outlives the operators under test."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from devcluster import Environment
from devcluster.tenants import watching

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True)
class Version:
    """A Tenant as the API server had it, when this machine heard of it (seconds, monotonic), and whether it is gone."""

    tenant: Object
    heard: float
    deleted: bool


class TenantFeed:
    """Knows the newest version of each Tenant, and all before it."""

    def __init__(self, platform: Environment) -> None:
        self._command = watching(platform)
        self._versions: dict[Key, list[Version]] = {}
        self._changed = threading.Condition()
        self._watching: subprocess.Popen[str]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._is_closing = False

    def __enter__(self) -> Self:
        self._watching = self._watch()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        while self._reader.is_alive():  # it may just be at the beginning of another watch
            self._watching.terminate()
            self._reader.join(0.2)

    def versions(self, key: Key) -> Sequence[Version]:
        """All that was heard of the tenant, oldest first."""
        with self._changed:
            return tuple(self._versions.get(key, ()))

    def wait(self, key: Key, holds: Callable[[Object], bool], what: str, seconds: float = 30.0) -> Version:
        """The newest version, as soon as it `holds`. AssertionError tells what the tenant says instead."""
        return self.wait_all([key], holds, what, seconds)[0]

    def wait_all(
        self, keys: Sequence[Key], holds: Callable[[Object], bool], what: str, seconds: float = 30.0
    ) -> list[Version]:
        """The same of many tenants at once."""
        deadline = time.monotonic() + seconds
        late, has_listed = list(keys), False
        with self._changed:
            # Those that were late are looked at first: there may be hundreds, and an event is heard for each change.
            while late := [key for key in late if not self._newest_holds(key, holds)] or [
                key for key in keys if not self._newest_holds(key, holds)
            ]:
                left = deadline - time.monotonic()
                assert left > 0, f"{what}: not within {seconds:g} s for {len(late)}: {self._tell(late[0])}"
                if left < seconds / 2 and not has_listed:
                    has_listed = True
                    self._watching.terminate()  # it may hang: another one begins with everything as it is
                self._changed.wait(max(left - (0 if has_listed else seconds / 2), 0.1))
            return [self._versions[key][-1] for key in keys]

    def _newest_holds(self, key: Key, holds: Callable[[Object], bool]) -> bool:
        versions = self._versions.get(key)
        return versions is not None and not versions[-1].deleted and holds(versions[-1].tenant)

    def _tell(self, key: Key) -> str:
        versions = self._versions.get(key)
        if versions is None:
            return f"{key} was never heard of"
        return f"{key} is {'deleted' if versions[-1].deleted else json.dumps(versions[-1].tenant.get('status'))}"

    def _read(self) -> None:
        # The API server closes a watch that cannot keep up: the next one begins with everything as it is then.
        while not self._is_closing:
            with self._watching as kubectl:
                assert kubectl.stdout is not None
                for line in kubectl.stdout:
                    with suppress(json.JSONDecodeError):  # the last words of a watch that broke off
                        self._hear(json.loads(line))
            if not self._is_closing:
                self._watching = self._watch()

    def _watch(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # noqa: S603
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _hear(self, event: Object) -> None:
        tenant: Object = event["object"]
        if tenant["kind"] != "Tenant":
            return  # the end of the watch, announced
        metadata = tenant["metadata"]
        version = Version(tenant, time.monotonic(), event["type"] == "DELETED")
        with self._changed:
            known = self._versions.setdefault((metadata["namespace"], metadata["name"]), [])
            if not known or known[-1].tenant["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
                known.append(version)
                self._changed.notify_all()
