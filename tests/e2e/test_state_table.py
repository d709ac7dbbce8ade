"""Every request, at every hold: where the tenant ends, and that the ledger, the cluster and PostgreSQL agree on it.

All tenants that are held in the same way are made at once, asked at once, let go at once and looked at together.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from devcluster import Environment
from tenant_operator.api.names import LABEL_TENANT_UID
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.wire import Wire
from tests.e2e.world import TenantUnderTest, World, condition, is_held_up, settled, status, timeline

REQUESTS = ("cancel", "retry", "reset", "suspend", "resume", "decommission", "delete")
GONE = "gone"
SETTLE_SECONDS = 300.0
SERVING = ("Active", "Suspended")
DESIRED = {"suspend": "Suspended", "resume": "Active", "decommission": "Decommissioned"}
WAYS_OUT = ("llowed now", "cancel it first", "Wait until it is Decommissioned")
NOT_LISTED = ("PostgresSchema", "WorkloadSet")
"""Rows of the ledger that are part of others: of a database, and of a namespace."""
KEEP = "tests.example/kept"

Held = Callable[[Object], bool]


@dataclass(frozen=True)
class Case:
    """What the tenants are held at, and by request: where they end. `legal`: the one-shot requests that are granted."""

    at: str
    ends: Mapping[str, str]
    legal: frozenset[str] = frozenset()
    asked: Mapping[str, TenantUnderTest] = field(default_factory=dict)

    def name(self, request: str) -> str:
        return f"{self.at}-{request}"


def case(at: str, otherwise: str, *, legal: Iterable[str] = (), **ends: str) -> Case:
    """`ends` by request; the other requests leave the tenant where it was going."""
    everywhere = {"decommission": "Decommissioned", "delete": GONE}
    return Case(at, dict.fromkeys(REQUESTS, otherwise) | everywhere | ends, frozenset(legal))


# Held in a run: forward it can be turned, backward it can not; lasting intent is seen to afterwards.
FORWARD = (
    case("waits-for-readiness", "Active", legal=["cancel"], cancel="Pending", suspend="Suspended"),
    case("between-tries", "Active", legal=["cancel"], cancel="Pending", suspend="Suspended"),
)
BACKWARD = (
    case("failed-outage", "Failed", legal=["cancel"]),
    case("cancelled-outage", "Pending", legal=["cancel"]),
    case("failed-namespace", "Failed", legal=["cancel"]),
    case("releasing-namespace", "Decommissioned", resume="Active"),
)
AT_REST = {
    "Active": case("active", "Active", suspend="Suspended"),
    "Suspended": case("suspended", "Suspended", resume="Active"),
    "Failed": case("failed", "Failed", legal=["retry", "reset"], retry="Active"),
    "Pending": case("cancelled", "Pending", legal=["retry", "reset"], retry="Active", reset="Failed"),
    "Decommissioned": case("decommissioned", "Decommissioned", resume="Active"),
}


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Endpoint)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """The tests' output is no access log."""


class Endpoint(ThreadingHTTPServer):
    """The health endpoint of all tenants of the plans that are held by it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Health)
        self.status = HTTPStatus.SERVICE_UNAVAILABLE

    def plan(self, name: str, seconds: int) -> Object:
        """A plan whose tenants become ready when this endpoint is well, or else fail after so many seconds."""
        probe = {"url": f"http://127.0.0.1:{self.server_port}/health"}
        return catalog.plan(name, readiness=probe, timeouts={"wait-ready": f"{seconds}s"})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def wire(platform: Environment) -> Iterator[Wire]:
    """What the operator's connections to PostgreSQL go through."""
    server = conninfo_to_dict(platform.database_url)
    with Wire(str(server["host"]), int(str(server["port"]))) as wire:
        yield wire


@pytest.fixture(scope="module")
def operator_settings(platform: Environment, wire: Wire) -> Mapping[str, str]:
    # PostgreSQL knows who asks by the address: through the wire it is loopback as well.
    url = make_conninfo(platform.database_url, host="127.0.0.1", port=wire.port)
    return {"DATABASE_URL": url, "STALLED_RETRY": "1s"}


@pytest.fixture(autouse=True)
def mended(wire: Wire) -> Iterator[None]:
    """Whatever a test has done to the wire."""
    yield
    wire.mend()


def made(world: World, one: Case, plan: str, **spec: str) -> Case:
    """The case with a tenant for each request."""
    tenants = world.tenants([one.name(request) for request in REQUESTS], plan, **spec)
    return Case(one.at, one.ends, one.legal, dict(zip(REQUESTS, tenants, strict=True)))


def all_of(cases: Iterable[Case]) -> list[TenantUnderTest]:
    return [tenant for each in cases for tenant in each.asked.values()]


def wait(world: World, tenants: Sequence[TenantUnderTest], holds: Held, what: str) -> None:
    world.feed.wait_all([each.key for each in tenants], holds, what, SETTLE_SECONDS)


def settle(world: World, state: str, tenants: Sequence[TenantUnderTest]) -> None:
    wait(world, tenants, lambda each: settled(each, state), f"settles in {state}")


def annotate(world: World, action: str, tenants: Sequence[TenantUnderTest]) -> None:
    names = [each.name for each in tenants]
    world.kubectl("annotate", "tenant", *names, tenants[0].where, f"intelliauth.io/action={action}")


def desire(world: World, state: str, tenants: Sequence[TenantUnderTest]) -> None:
    names, patch = [each.name for each in tenants], json.dumps({"spec": {"desiredState": state}})
    world.kubectl("patch", "tenant", *names, tenants[0].where, "--type=merge", f"--patch={patch}")


def last_action(tenant: Object) -> Object:
    found: Object = status(tenant).get("lastAction") or {}
    return found


def ask(world: World, cases: Sequence[Case]) -> None:
    """Make each request of its tenants; returns once every one-shot request has its answer, the right one."""
    answered = {last_action(each.newest()).get("id") for each in all_of(cases)}
    for request in REQUESTS:
        tenants = [each.asked[request] for each in cases]
        if request == "delete":
            world.delete(tenants, wait=False)
        elif request in DESIRED:
            desire(world, DESIRED[request], tenants)
        else:
            annotate(world, request, tenants)
            wait(world, tenants, lambda each: last_action(each).get("id") not in answered, f"{request} is answered")
            for one, tenant in zip(cases, tenants, strict=True):
                last = last_action(tenant.newest())
                expected = "Accepted" if request in one.legal else "Refused"
                assert (tenant.name, last["action"], last["outcome"]) == (tenant.name, request, expected)
                assert expected == "Accepted" or any(way in last["message"] for way in WAYS_OUT)


def end(world: World, cases: Sequence[Case]) -> None:
    """Each tenant ends where the state table says; and whatever is told of it anywhere says the same."""
    by_end: dict[str, list[TenantUnderTest]] = defaultdict(list)
    for one in cases:
        for request, tenant in one.asked.items():
            by_end[one.ends[request]].append(tenant)
    gone = by_end.pop(GONE)
    world.delete(gone)
    for state, tenants in by_end.items():
        settle(world, state, tenants)
    agree(world, by_end, gone)


def agree(world: World, by_state: Mapping[str, Sequence[TenantUnderTest]], gone: Sequence[TenantUnderTest]) -> None:
    """Ledger, cluster, PostgreSQL, conditions and audit feed say the same of every tenant."""
    there = everything(world)
    feed: dict[str, list[str]] = defaultdict(list)
    ids = []
    for event in world.audit():
        feed[event["tenant_id"]].append(event["type"])
        ids.append(event["id"])
    assert len(set(ids)) == len(ids)
    for tenant in gone:
        assert (tenant.name, there[tenant.uid[:13]]) == (tenant.name, set())
        assert feed[tenant.uid][-1] == "tenant.deleted"
        assert feed[tenant.uid].count("tenant.deleted") == 1
    for state, tenants in by_state.items():
        for tenant in tenants:
            newest = tenant.newest()
            rows = status(newest).get("allocations", [])
            ledger = {(row["kind"], row["name"]) for row in rows if row["kind"] not in NOT_LISTED}
            assert (tenant.name, ledger) == (tenant.name, there[tenant.uid[:13]])
            assert {row["state"] for row in rows} <= {"Allocated"}
            assert bool(rows) is (state in SERVING)
            assert condition(newest, "ResourcesHeld")["status"] == str(bool(rows))
            arrived = state == newest["spec"]["desiredState"]
            ready = "True" if state == "Active" else None if arrived else "False"
            assert condition(newest, "Ready").get("status") == ready
            assert condition(newest, "TrafficEnabled").get("status", "False") == str(state == "Active")
            assert bool(condition(newest, "Stalled")) is (not arrived)
            assert condition(newest, "Reconciling") == {}
            assert "intelliauth.io/action" not in newest["metadata"].get("annotations", {})
            assert feed[tenant.uid].count("tenant.provisioning.started") == status(newest)["attempt"]


def everything(world: World) -> Mapping[str, set[tuple[str, str]]]:
    """Kind and name of all that the ledger knows of, found where it is, by the beginning of the tenant's UID."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    listed = world.listed(
        "namespaces,secrets,configmaps,networkpolicies,ingresses,services",
        "--all-namespaces",
        f"--selector={LABEL_TENANT_UID},app.kubernetes.io/component!=workload",
    )
    for each in listed:
        metadata = each["metadata"]
        found[metadata["labels"][LABEL_TENANT_UID][:13]].add((each["kind"], metadata["name"]))
    for kind, name in world.stored():
        uid = name.removeprefix("tenant_")
        found[f"{uid[:8]}-{uid[8:12]}"].add((kind, name))
    return found


def is_at(activity: str, state: str) -> Held:
    return lambda tenant: any((row["activity"], row["state"]) == (activity, state) for row in timeline(tenant))


def _is_between_tries(tenant: Object) -> bool:
    return is_held_up(tenant, "allocate-storage")


def _is_stalled(tenant: Object) -> bool:
    return condition(tenant, "Ready").get("reason") == "ReleaseFailed"


def test_requests_while_the_database_is_away(world: World, wire: Wire) -> None:
    """Held between two tries on the way forward; held in the rollback of a failure, and in that of a cancel."""
    wire.cut()
    forward = made(world, FORWARD[1], "patient-with-postgres")
    failed = made(world, BACKWARD[0], "impatient-with-postgres")
    cancelled = made(world, BACKWARD[1], "patient-with-postgres")
    wait(world, all_of([forward, cancelled]), _is_between_tries, "is between two tries")
    annotate(world, "cancel", all_of([cancelled]))
    wait(world, all_of([failed]), _is_stalled, "cannot be rolled back")
    rolls_back = is_at("allocate-storage", "Compensating")
    wait(world, all_of([failed, cancelled]), rolls_back, "is at the rollback of the storage")
    wait(world, all_of([cancelled]), lambda each: bool(last_action(each)), "the cancel is answered")
    begun = {each.uid: status(each.newest())["run"]["id"] for each in all_of([forward, failed])}
    ask(world, [forward, failed, cancelled])
    wire.mend()
    end(world, [forward, failed, cancelled])
    for request in ("retry", "reset", "suspend", "resume"):
        for one in (forward, failed):
            tenant = one.asked[request]
            assert status(tenant.newest())["run"]["id"] == begun[tenant.uid]


def test_requests_while_it_waits_or_its_namespace_does(world: World, endpoint: Endpoint) -> None:
    """Held before it is ready; held by the deletion of the namespace, in a rollback and in a decommission."""
    world.offer(endpoint.plan("held", 3600), endpoint.plan("held-to-fail", 3600))
    waiting = made(world, FORWARD[0], "held")
    failing = made(world, BACKWARD[2], "held-to-fail")
    releasing = made(world, BACKWARD[3], "small")
    settle(world, "Active", all_of([releasing]))
    wait(world, all_of([waiting, failing]), is_at("wait-ready", "Running"), "waits to be ready")
    with world.kept_namespaces(*all_of([failing, releasing])):
        world.offer(endpoint.plan("held-to-fail", 1))
        desire(world, "Decommissioned", all_of([releasing]))
        at_the_namespace = is_at("allocate-namespace", "Compensating")
        wait(world, all_of([failing, releasing]), at_the_namespace, "waits for its namespace to be gone")
        ask(world, [waiting, failing, releasing])
        wait(world, all_of([failing]), at_the_namespace, "still waits")
    endpoint.status = HTTPStatus.OK
    end(world, [waiting, failing, releasing])


def test_requests_at_rest(world: World, endpoint: Endpoint) -> None:
    """Nothing runs: what is legal sets something off, what is not changes nothing."""
    world.offer(endpoint.plan("held", 3600), endpoint.plan("held-to-fail", 1))
    active = made(world, AT_REST["Active"], "small")
    suspended = made(world, AT_REST["Suspended"], "small", desiredState="Suspended")
    failed = made(world, AT_REST["Failed"], "held-to-fail")
    cancelled = made(world, AT_REST["Pending"], "held")
    decommissioned = made(world, AT_REST["Decommissioned"], "small")
    settle(world, "Active", all_of([decommissioned]))
    desire(world, "Decommissioned", all_of([decommissioned]))
    wait(world, all_of([cancelled]), is_at("wait-ready", "Running"), "waits to be ready")
    annotate(world, "cancel", all_of([cancelled]))
    cases = {
        "Active": active,
        "Suspended": suspended,
        "Failed": failed,
        "Pending": cancelled,
        "Decommissioned": decommissioned,
    }
    for state, one in cases.items():
        settle(world, state, all_of([one]))
    endpoint.status = HTTPStatus.OK
    world.offer(endpoint.plan("held-to-fail", 3600))
    agree(world, {state: all_of([one]) for state, one in cases.items()}, [])
    before = {tenant.uid: _journal(tenant) for tenant in all_of(cases.values())}
    ask(world, list(cases.values()))
    end(world, list(cases.values()))
    for state, one in cases.items():
        for request, tenant in one.asked.items():
            if one.ends[request] == state and request not in one.legal:
                assert (tenant.name, _journal(tenant)) == (tenant.name, before[tenant.uid])


def _journal(tenant: TenantUnderTest) -> Object:
    """What only a run changes."""
    now = status(tenant.newest())
    return {name: now.get(name) for name in ("state", "attempt", "run", "timeline", "allocations", "history")}
