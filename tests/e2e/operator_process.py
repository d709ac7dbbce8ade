"""The operator, with all that the tests do to it; here as a process of its own."""

import http.client
import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from devcluster import Environment, ports
from devcluster.children import fork, tied_to_us
from devcluster.platform import ROOT, operator_environment
from tests.e2e.waiting import until

PREFIX = "TENANT_OPERATOR_"
RUN = (sys.executable, "-m", "tenant_operator", "run")

_STUMBLE = re.compile(r".*(?:Traceback|in API group|is not for the operator)(?:.*\n?){1,20}")
"""With the lines after it: a traceback may be one line or many."""
_HOST = "127.0.0.1"
_READY_SECONDS = 60.0
_STOP_SECONDS = 40.0


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of an operator that knows these settings and none of the caller's shell."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    path = os.pathsep.join(part for part in (str(ROOT / "operator"), os.environ.get("PYTHONPATH")) if part)
    return {**inherited, "PYTHONPATH": path, **settings}


class Operator(ABC):
    """One operator in one cluster. It may end and be started again, with the same audit feed and the same log."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "operator.log"

    @property
    @abstractmethod
    def audit(self) -> Path:
        """The audit feed as it is now; the file may not be there yet."""

    @abstractmethod
    def start(self) -> None:
        """Returns once it says that it is ready."""

    @abstractmethod
    def stop(self) -> int:
        """End it as Kubernetes does; return the exit code."""

    @abstractmethod
    def kill(self) -> None:
        """End it without a warning."""

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether it was started, and not ended since."""

    def output(self) -> str:
        """All that it ever logged."""
        return self.log.read_text(errors="replace")

    def stumbles(self) -> list[str]:
        """What it logged of errors that nobody caught, and of rights that RBAC or the chart's policy refused it."""
        return _STUMBLE.findall(self.output())


class OperatorProcess(Operator):
    """An operator on this machine."""

    def __init__(
        self,
        platform: Environment,
        folder: Path,
        settings: Mapping[str, str],
        command: Sequence[str] = RUN,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` by their names without the prefix, and other variables in `environment`; they win over those that
        make an operator work here."""
        super().__init__(folder)
        self._command = command
        self._audit = folder / "audit.jsonl"
        (self._health_port,) = ports.choose(1)
        own = {"AUDIT_LOG": str(self._audit), "LOG_FORMAT": "json", **settings}
        self._environment = environment_of(
            operator_environment(platform, health_port=self._health_port)
            | {PREFIX + name: value for name, value in own.items()}
            | dict(environment or {})
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def audit(self) -> Path:
        return self._audit

    def launch(self) -> None:
        """Start it, whatever becomes of it."""
        assert self._process is None, "it is running already"
        with self.log.open("ab") as output:
            self._process = fork(tied_to_us(self._command), env=self._environment, stdout=output.fileno())

    def start(self) -> None:
        self.launch()
        until(self._is_ready, "the operator is ready", _READY_SECONDS, tell=self.readiness)

    def stop(self) -> int:
        process = self._process
        assert process is not None, "it is not running"
        process.send_signal(signal.SIGTERM)
        return self._ended(process)

    def kill(self) -> None:
        process = self._process
        assert process is not None, "it is not running"
        process.kill()
        self._ended(process)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the operator did not end within {_STOP_SECONDS:g} s") from None
        finally:
            self._process = None

    def wait(self, seconds: float) -> int:
        """The exit code with which it ends by itself."""
        process = self._process
        assert process is not None, "it is not running"
        code = process.wait(seconds)
        self._process = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it is not running"
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """The process that is the operator: the launcher has become it."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def lives(self) -> bool:
        """What its liveness probe says."""
        return self._ask("/livez")[0] == http.HTTPStatus.OK

    def readiness(self) -> tuple[int, str]:
        """What its readiness probe says: the status and the words; 0 if there is no answer."""
        return self._ask("/readyz")

    def _is_ready(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"the operator ended with code {code}:\n{self.output()[-2000:]}"
        return self.readiness()[0] == http.HTTPStatus.OK

    def _ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(_HOST, self._health_port, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()
