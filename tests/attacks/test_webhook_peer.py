"""The attacker: whoever reaches the operator's webhooks over the network, a pod of any tenant say.

It has no credentials: no token of the webhooks' paths, no client certificate, no account. It knows the source of this
program, the address, and what an API server sends; it can open as many connections as it likes. It wants to learn of
tenants, or to keep the operator from working.
"""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Environment
from tests.attacks.network_peer import Target, a_review, half_open, malformed, oversized, siege
from tests.e2e import catalog, webhook
from tests.e2e.feed import TenantFeed
from tests.e2e.operator_process import OperatorProcess
from tests.e2e.waiting import until
from tests.e2e.webhook import OWNER, GatedWorld
from tests.e2e.world import World

BARE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
AT_ONCE = 8
"""Tenants that are provisioned during a siege."""
ATTEMPTS = 5
"""How often each attack is made at the least, before a siege is believed to be one."""
MORE_MEMORY = 96 * 1024
"""KiB that the operator may have taken more at its peak than at rest: its bound of connections and bodies, and its own
work."""


@pytest.fixture(scope="module")
def module_world(
    platform: Environment, tenant_feed: TenantFeed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with webhook.gated_world(platform, tenant_feed, tmp_path_factory.mktemp("peer")) as world:
        yield world


@pytest.fixture
def operator(gate: GatedWorld) -> OperatorProcess:
    assert isinstance(gate.operator, OperatorProcess)
    return gate.operator


@pytest.fixture
def target(gate: GatedWorld) -> Target:
    return Target(gate.webhook.port)


class Kubelet(threading.Thread):
    """Asks for the liveness of the operator as the chart has it asked: at once again, and never without patience."""

    def __init__(self, operator: OperatorProcess) -> None:
        super().__init__()
        self._operator = operator
        self._over = threading.Event()
        self.answers: list[bool] = []

    def run(self) -> None:
        while not self._over.wait(0.2):
            self.answers.append(self._operator.lives())

    def __enter__(self) -> "Kubelet":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def peak(operator: OperatorProcess) -> int:
    """The most memory that it ever had, in KiB."""
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{operator.pid}/status").read_text())
    return int(found)


@pytest.mark.parametrize("attack", [half_open, oversized, malformed], ids=lambda attack: attack.__name__)
def test_under_siege_tenants_are_admitted_and_provisioned_and_the_operator_is_alive(
    gate: GatedWorld, operator: OperatorProcess, target: Target, attack: Any
) -> None:
    before, logged = peak(operator), len(operator.output())
    names = [f"besieged-{attack.__name__.replace('_', '-')}-{number}" for number in range(AT_ONCE)]
    with Kubelet(operator) as kubelet, siege(target, [attack] * 3) as made:
        until(lambda: made() > ATTEMPTS, "the siege has begun", 60)
        for name in names:
            created = gate.ask_as(OWNER, "create", "--filename=-", stdin=json.dumps(catalog.tenant(name, "small")))
            assert created.code == 0, created.err
        for tenant in gate.tenants(names):
            tenant.settles("Active")
        refused = gate.ask_about(names[0], "annotate", "intelliauth.io/action=cancel", user=OWNER)
        assert "cancel is possible in Provisioning only" in refused.err
        assert operator.readiness()[0] == 200

    assert kubelet.answers
    assert all(kubelet.answers)
    assert peak(operator) - before < MORE_MEMORY
    said = operator.output()[logged:]
    assert "Traceback" not in said
    # One reminder a minute, however many knock.
    assert said.count("a path that does not exist") <= 3


# What it learns.


PATHS = (
    *(f"/{name}" for name in ("check-tenant", "stamp-tenant", "check-plan", "check-organization")),
    *("/", "/livez", "/readyz", "/metrics", "/debug", "//check-tenant", "/../check-tenant", "/%2e/check-tenant"),
    *("/replace-this-token-with-one-of-your-own/check-tenant", "/check-tenant?token=", "/*/check-tenant"),
)


def test_a_stranger_learns_nothing_whatever_it_asks(gate: GatedWorld, target: Target) -> None:
    """The same bytes for a host that is taken and one that is free, for a plan that exists and one that does not."""
    holder = gate.tenant("holder")
    holder.settles("Active")
    token = gate.webhook.token
    almost = [token[:-1], token.upper(), f"{token}x", token[::-1], ""]

    for path in (*PATHS, *(f"/{each}/check-tenant" for each in almost)):
        for body in (a_review("CREATE", slug="holder"), a_review("CREATE", slug="free"), a_review("CREATE", plan="no")):
            assert target.ask(path, body) == BARE
    for method in ("GET", "PUT", "HEAD", "OPTIONS", "TRACE"):
        assert target.ask("/check-tenant", b"", method=method) == BARE
        assert target.ask(f"/{token}/check-tenant", b"", method=method) == BARE


def test_the_api_server_learns_what_it_asks(gate: GatedWorld, target: Target) -> None:
    """So that the test before this one does not pass for want of an answer: whoever knows the path gets one."""
    holder = gate.tenant("taken")
    holder.settles("Active")

    answer = target.ask(f"/{gate.webhook.token}/check-tenant", a_review("CREATE", slug="taken", plan="no-such"))

    assert b"there is no such Plan" in answer
    assert gate.webhook.token not in gate.operator.output()


def test_the_certificate_tells_nothing_of_the_platform(gate: GatedWorld, target: Target) -> None:
    with target.handshake() as connection:
        shown = connection.getpeercert(binary_form=True)

    assert shown is not None
    assert catalog.ORGANIZATION.encode() not in shown
