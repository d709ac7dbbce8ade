"""Runs the Lua of Argo CD's resource customizations as Argo CD does: by `argolua` of `devcluster/clients`."""

import atexit
import json
import subprocess
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Any, Final

from devcluster import binaries
from devcluster.children import tied_to_us

Object = dict[str, Any]

_GRACE_SECONDS: Final = 5.0


class LuaError(Exception):
    """What Argo CD would show in the place of a verdict: the script failed, or returned what it cannot use."""


class Sandbox:
    """One script. `now` and `zone` are the clock of the Argo CD that runs it."""

    def __init__(self, script: str, *, now: datetime | None = None, zone: tzinfo = UTC) -> None:
        self._script = script
        self._now = (now or datetime.now(UTC)).astimezone(zone)

    def health(self, obj: Object) -> Object:
        """The verdict on an object that has a `health.lua`: status and message."""
        verdict: Object = self._run("health", obj)
        return verdict

    def discovery(self, obj: Object) -> list[Object]:
        """The actions of a `discovery.lua`, by name."""
        found: list[Object] = self._run("discovery", obj)
        return found

    def enabled(self, obj: Object) -> list[str]:
        """The names of the actions that a person may choose."""
        return [each["name"] for each in self.discovery(obj) if not each["disabled"]]

    def action(self, obj: Object) -> Object:
        """The object as an `action.lua` returns it; Argo CD patches the difference."""
        changed: Object = self._run("action", obj)
        return changed

    def _run(self, kind: str, obj: Object) -> Any:
        offset = self._now.utcoffset()
        assert offset is not None
        clock = {"now": int(self._now.timestamp()), "zone": int(offset.total_seconds())}
        answer = _engine().ask({"kind": kind, "script": self._script, "object": obj, **clock})
        if "error" in answer:
            raise LuaError(answer["error"])
        return answer["result"]


class _Engine:
    """One process that answers everything that the tests of this one ask."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            tied_to_us([binaries.clients(print)["argolua"]]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; it ends with its input
        )

    def ask(self, request: Object) -> Object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: Object = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=_GRACE_SECONDS)


@cache
def _engine() -> _Engine:
    engine = _Engine()
    atexit.register(engine.close)
    return engine
