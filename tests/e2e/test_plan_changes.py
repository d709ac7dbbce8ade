"""Plans change, and tenants change their plans, while they serve: in place, with a way to pods that are ready at every
moment."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client import ApiClient, CoreV1Api, DiscoveryV1Api, NetworkingV1Api
from kubernetes.config import new_client_from_config

from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, has_rolled_out, status

ROLLED_OUT_SECONDS = 40.0


def plan_with(name: str, port: int, *more: Object, at: str = "http", **spec: Any) -> Object:
    auth = catalog.workload("auth", route=True, ports=[{"name": at, "containerPort": port}], replicas=2)
    return catalog.plan(name, auth, *more, **spec)


class Traffic:
    """What an ingress controller knows, looked at again and again: whether the route leads to a pod that is ready."""

    def __init__(self, api: ApiClient, tenant: TenantUnderTest) -> None:
        self._ingresses: Any = NetworkingV1Api(api)
        self._services: Any = CoreV1Api(api)
        self._slices: Any = DiscoveryV1Api(api)
        self._namespace = tenant.namespace
        self.dead_ends: list[str] = []
        self.looks = 0

    def look(self) -> None:
        ingress = self._ingresses.read_namespaced_ingress("tenant", self._namespace)
        backend = ingress.spec.rules[0].http.paths[0].backend.service
        service = self._services.read_namespaced_service(backend.name, self._namespace)
        names = [port.name for port in service.spec.ports if port.port == backend.port.number]
        selector = f"kubernetes.io/service-name={backend.name}"
        found = self._slices.list_namespaced_endpoint_slice(self._namespace, label_selector=selector)
        ready = [
            endpoint
            for each in found.items
            if names and any(port.name == names[0] for port in each.ports or ())
            for endpoint in each.endpoints or ()
            if endpoint.conditions.ready
        ]
        self.looks += 1
        if not ready:
            self.dead_ends.append(f"{backend.name}:{backend.port.number} leads to nobody: {service.spec.ports}")


@contextmanager
def watched(world: World, tenant: TenantUnderTest) -> Iterator[Traffic]:
    """While this lasts, the way that the traffic takes is looked at all the time."""
    api = new_client_from_config(str(world.platform.kubeconfig))  # type: ignore[no-untyped-call]
    traffic = Traffic(api, tenant)
    is_over = threading.Event()

    def look_on() -> None:
        while not is_over.is_set():
            traffic.look()
            time.sleep(0.02)

    thread = threading.Thread(target=look_on)
    thread.start()
    try:
        yield traffic
    finally:
        is_over.set()
        thread.join()


def rolls_out(tenant: TenantUnderTest, workloads_hash: str) -> None:
    tenant.wait(lambda each: has_rolled_out(each, workloads_hash), "has rolled out", ROLLED_OUT_SECONDS)


def ports_of(tenant: TenantUnderTest) -> list[int]:
    return [port["port"] for port in tenant.object("service", "auth")["spec"]["ports"]]


def test_a_port_that_moves_or_is_renamed_is_never_a_dead_end(world: World) -> None:
    world.offer(plan_with("rolling", 8080))
    tenant = world.tenant("moves-port", "rolling")
    before = tenant.settles("Active")["workloadsHash"]
    for port, name in ((9090, "http"), (9090, "web")):
        with watched(world, tenant) as traffic:
            world.offer(plan_with("rolling", port, at=name))
            rolls_out(tenant, before)
        assert traffic.looks > 5
        assert traffic.dead_ends == []
        assert ports_of(tenant) == [port]
        before = status(tenant.newest())["workloadsHash"]


def test_traffic_that_goes_to_another_workload_is_never_a_dead_end(world: World) -> None:
    world.offer(plan_with("rolling", 8080))
    tenant = world.tenant("moves-route", "rolling")
    before = tenant.settles("Active")["workloadsHash"]
    other = catalog.workload("front", route=True, ports=[{"name": "http", "containerPort": 8081}])
    with watched(world, tenant) as traffic:
        world.offer(catalog.plan("rolling", other))
        rolls_out(tenant, before)
    assert traffic.dead_ends == []
    assert world.read("deployment", "auth", tenant.namespace) is None


def test_what_a_plan_no_longer_bounds_is_bounded_no_longer(world: World) -> None:
    bounds: dict[str, Any] = {"quota": {"pods": "10"}, "limitRange": {"default": {"cpu": "100m"}}}
    world.offer(plan_with("rolling", 8080, **bounds))
    tenant = world.tenant("unbounded", "rolling")
    before = tenant.settles("Active")["workloadsHash"]
    assert world.read("resourcequota", "tenant-quota", tenant.namespace)
    world.offer(plan_with("rolling", 8080))
    rolls_out(tenant, before)

    assert world.listed("resourcequotas", f"--namespace={tenant.namespace}") == []
    assert world.listed("limitranges", f"--namespace={tenant.namespace}") == []


def test_a_quota_that_is_raised_while_the_tenant_waits_counts_at_once(world: World) -> None:
    world.offer(plan_with("rolling", 8080, quota={"pods": "1"}, timeouts={"wait-ready": "120s"}))
    tenant = world.tenant("waits-for-room", "rolling")
    tenant.wait(lambda each: "exceeded quota" in condition(each, "Ready").get("message", ""), "says what it waits for")
    world.offer(plan_with("rolling", 8080, quota={"pods": "5"}, timeouts={"wait-ready": "120s"}))
    assert tenant.settles("Active")["attempt"] == 1


def test_a_plan_that_is_gone_is_told(world: World) -> None:
    world.offer(plan_with("rolling", 8080))
    tenant = world.tenant("planless", "rolling")
    tenant.settles("Active")
    world.kubectl("delete", "plan", "rolling")
    version = tenant.wait(lambda each: bool(condition(each, "Stalled")), "is stalled").tenant
    assert "plan rolling does not exist" in condition(version, "Stalled")["message"]
    assert condition(version, "Ready")["status"] == "True"
    world.offer(plan_with("rolling", 8080))
    tenant.wait(lambda each: not condition(each, "Stalled"), "goes on")


def change_plan(world: World, tenant: TenantUnderTest, plan: str) -> None:
    world.kubectl(
        "patch", "tenant", tenant.name, tenant.where, "--type=merge", f'--patch={{"spec":{{"plan":"{plan}"}}}}'
    )


def connection_limit(world: World, tenant: TenantUnderTest) -> int:
    ((limit,),) = world.query("SELECT datconnlimit FROM pg_database WHERE datname = %s", tenant.database)
    return int(limit)


def test_a_tenant_changes_its_plan_in_place_up_and_down(world: World) -> None:
    """No run, no loss: quota, workloads and the database's limit follow, and there is room for both meanwhile."""
    small = plan_with("rolling", 8080, quota={"pods": "3", "requests.cpu": "50m"}, storage={"connectionLimit": 3})
    world.offer(small)
    tenant = world.tenant("upgrades", "rolling")
    before = tenant.settles("Active")
    assert before["plan"] == "rolling"
    assert connection_limit(world, tenant) == 3
    with watched(world, tenant) as traffic:
        change_plan(world, tenant, "standard")
        rolls_out(tenant, before["workloadsHash"])
    larger = tenant.settles("Active")
    assert (larger["plan"], larger["run"], larger["attempt"]) == ("standard", before["run"], 1)
    assert connection_limit(world, tenant) == 7
    assert tenant.object("resourcequota", "tenant-quota")["spec"]["hard"]["pods"] == "10"
    assert world.read("deployment", "worker", tenant.namespace)

    with watched(world, tenant) as downwards:
        change_plan(world, tenant, "rolling")
        rolls_out(tenant, larger["workloadsHash"])
    assert traffic.dead_ends == downwards.dead_ends == []
    assert connection_limit(world, tenant) == 3
    assert tenant.object("resourcequota", "tenant-quota")["spec"]["hard"] == {"pods": "3", "requests.cpu": "50m"}
    assert world.read("deployment", "worker", tenant.namespace) is None
    tenant.event("PlanChanged", says="from standard to rolling")
    told = until(lambda: [each["data"] for each in tenant.told("tenant.plan.changed")][1:], "the feed has both")
    assert told == [{"from": "standard", "to": "rolling"}]
    active = [each for each in tenant.versions if status(each).get("state") == "Active"]
    assert {condition(each, "Ready").get("status") for each in active} == {"True"}


def test_a_plan_that_the_organization_may_not_have_changes_nothing(world: World) -> None:
    """Without the webhook nobody refuses the edit; the tenant stays as it is and says so."""
    tenant = world.tenant("may-not", "small")
    before = tenant.settles("Active")
    change_plan(world, tenant, catalog.FORBIDDEN_PLAN)
    version = tenant.wait(lambda each: bool(condition(each, "Stalled")), "is stalled").tenant
    assert "it stays on plan small" in condition(version, "Stalled")["message"]
    assert "not entitled" in condition(version, "Stalled")["message"]
    assert (status(version)["plan"], status(version)["workloadsHash"]) == ("small", before["workloadsHash"])
    change_plan(world, tenant, "small")
    tenant.wait(lambda each: not condition(each, "Stalled"), "is as it should be")


def test_a_plan_that_changes_during_a_run_waits_for_its_end(world: World) -> None:
    tenant = world.tenant("changes-its-mind", "endless")
    tenant.runs("wait-ready")
    change_plan(world, tenant, "small")
    tenant.act("cancel")
    tenant.settles("Pending")
    tenant.act("retry")
    assert tenant.settles("Active")["plan"] == "small"
