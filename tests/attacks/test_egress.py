"""Attacker: whoever has taken over a workload of a tenant, and goes on from its pod over the network. They have no
token of the API server's and cannot change their tenant's NetworkPolicies; what those let out is all that they reach.

The pods of the development cluster do not run: its API server stores the policies, and they are judged as a network
plugin would.
"""

import json
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition
from tests.unit.provisioning.test_egress import lets_out

METADATA = ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200")
CLUSTER = ("10.96.0.1", "172.16.0.1", "192.168.0.1", "fd00::1", "fe80::1")
INTERNET = "203.0.113.9"
PORTS = (53, 80, 443, 5432, 6443, 10250)


def egress(tenant: TenantUnderTest) -> list[Object]:
    rules: list[Object] = tenant.object("networkpolicy", "allow-egress")["spec"]["egress"]
    return rules


def outgoing(*egress: dict[str, Any]) -> Object:
    return catalog.plan("outgoing", egress=list(egress))


def to(*cidrs: str, port: int = 443) -> dict[str, Any]:
    return {"to": [{"ipBlock": {"cidr": cidr}} for cidr in cidrs], "ports": [{"port": port}]}


def test_a_plan_that_asks_for_nothing_lets_out_to_its_database_alone(world: World) -> None:
    tenant = world.tenant("walled")
    tenant.settles("Active")
    rules = egress(tenant)
    database = conninfo_to_dict(world.platform.database_url)

    assert lets_out(rules, str(database["host"]), int(str(database["port"])))
    for address in (*METADATA, *CLUSTER, INTERNET):
        for port in PORTS:
            assert not lets_out(rules, address, port), (address, port)
            assert not lets_out(rules, address, port, "UDP"), (address, port)


def test_the_internet_does_not_include_the_clouds_metadata_nor_the_cluster(world: World) -> None:
    world.apply(outgoing(to("0.0.0.0/0", "::/0")))
    tenant = world.tenant("surfs", "outgoing")
    tenant.settles("Active")
    rules = egress(tenant)

    assert lets_out(rules, INTERNET, 443)
    assert not lets_out(rules, INTERNET, 80)
    for address in (*METADATA, *CLUSTER):
        assert not lets_out(rules, address, 443), address


def test_a_plan_that_is_narrowed_narrows_those_that_serve(world: World) -> None:
    world.apply(outgoing(to("0.0.0.0/0")))
    tenant = world.tenant("narrows", "outgoing")
    tenant.settles("Active")
    assert lets_out(egress(tenant), INTERNET, 443)

    world.apply(outgoing(to("198.51.100.0/24")))

    until(lambda: not lets_out(egress(tenant), INTERNET, 443), "what was open is closed")
    assert lets_out(egress(tenant), "198.51.100.9", 443)
    assert condition(tenant.newest(), "Ready")["status"] == "True"


def test_a_hole_that_somebody_makes_in_the_wall_is_closed(world: World) -> None:
    tenant = world.tenant("holed")
    tenant.settles("Active")
    everywhere = [{"op": "add", "path": "/spec/egress/-", "value": {}}]
    where = f"--namespace={tenant.namespace}"
    world.kubectl("patch", "networkpolicy", "allow-egress", where, "--type=json", f"--patch={json.dumps(everywhere)}")

    until(lambda: {} not in egress(tenant), "the hole is closed", 60)
    tenant.event("DriftCorrected")
