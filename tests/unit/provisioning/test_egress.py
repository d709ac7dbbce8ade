"""Whom a tenant's pods may reach: what the settings and the plan name, and nothing that was not meant."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.api.egress import EgressRule
from tenant_operator.api.plan import Plan
from tenant_operator.catalog import plans
from tenant_operator.ports import Endpoint
from tenant_operator.provisioning import manifests
from tenant_operator.provisioning.contents import digest
from tenant_operator.provisioning.egress import as_manifest, database_rules, egress_rules, network
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import PRIVATE_NETWORKS, Options
from tenant_operator.saga.errors import Rejected
from tests.unit.provisioning.cluster_world import a_plan

NAMES = Names("banking", "cymmetri", "cymmetri", "uid-1", "tenants.example")
DATABASE = Endpoint("198.51.100.7", 5432)
METADATA = "169.254.169.254"
Rule = dict[str, Any]


def to(*cidrs: str, port: int = 443, holes: Sequence[str] = ()) -> Rule:
    """An egress rule of a plan."""
    return {"to": [{"ipBlock": {"cidr": cidr, "except": [*holes]}} for cidr in cidrs], "ports": [{"port": port}]}


def plan(*egress: Rule) -> Plan:
    return a_plan(egress=egress)


def policy(plan: Plan, options: Options | None = None, database: Endpoint = DATABASE) -> list[Rule]:
    """The rules of the NetworkPolicy as it is applied."""
    (found,) = [
        each
        for each in manifests.network_policies(NAMES, options or Options(), plan, database=database)
        if each["metadata"]["name"] == "allow-egress"
    ]
    rules: list[Rule] = found["spec"]["egress"]
    return rules


def lets_out(rules: Sequence[Rule], address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether traffic to an address passes, as a network plugin would judge it: each rule names peers and ports."""
    return any(
        any(_is_port(each, port, protocol) for each in rule.get("ports", ()))
        and any(_is_peer(each, address) for each in rule.get("to", ()))
        for rule in rules
    )


def _is_port(given: Rule, port: int, protocol: str) -> bool:
    first: int = given["port"]
    last: int = given.get("endPort", first)
    return given["protocol"] == protocol and first <= port <= last


def _is_peer(peer: Rule, address: str) -> bool:
    block = peer.get("ipBlock")
    return (
        block is not None
        and _is_in(address, block["cidr"])
        and not any(_is_in(address, hole) for hole in block.get("except", ()))
    )


def _is_in(address: str, cidr: str) -> bool:
    return ip_address(address) in ip_network(cidr)


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("203.0.113.9", 443),
        ("203.0.113.9", 53),
        ("203.0.113.9", 5432),
        (METADATA, 80),
        (METADATA, 53),
        ("10.96.0.1", 443),
    ],
)
def test_a_plan_that_asks_for_nothing_gets_nothing(address: str, port: int) -> None:
    rules = policy(plan())

    assert not any(lets_out(rules, address, port, protocol) for protocol in ("TCP", "UDP"))


def test_every_rule_names_peers_and_ports() -> None:
    """An empty list of either is all there is."""
    own, *others = policy(plan(to("0.0.0.0/0")))

    assert own == {"to": [{"podSelector": {}}]}
    assert all(rule["to"] and rule["ports"] for rule in others)


def test_names_are_asked_for_where_clusters_have_their_resolver() -> None:
    rules = policy(plan())

    assert lets_out(rules, "169.254.20.10", 53, "UDP")
    (dns,) = [rule for rule in rules if {"protocol": "UDP", "port": 53} in rule.get("ports", ())]
    assert {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    } in dns["to"]


def test_a_database_at_an_address_is_reached_there_and_nowhere_else() -> None:
    for host, other in (("198.51.100.7", "198.51.100.8"), ("2001:db8::7", "2001:db8::8"), ("10.20.0.5", "10.20.0.6")):
        rules = policy(plan(), database=Endpoint(host, 6432))

        assert lets_out(rules, host, 6432)
        assert not lets_out(rules, host, 5432)
        assert not lets_out(rules, other, 6432)


@pytest.mark.parametrize(
    "host", ["postgres.databases.svc", "postgres.databases.svc.cluster.local", "PG.databases.svc."]
)
def test_a_database_behind_a_service_is_reached_in_its_namespace(host: str) -> None:
    (rule,) = database_rules(Options(), Endpoint(host, 5432))

    assert as_manifest(rule) == {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "databases"}}}],
        "ports": [{"protocol": "TCP", "port": 5432}],
    }


@pytest.mark.parametrize("host", ["db.cloud.example", "localhost", "postgres", "postgres.databases", "/run/postgresql"])
def test_a_database_of_any_other_name_needs_the_setting(host: str) -> None:
    with pytest.raises(Rejected, match="TENANT_OPERATOR_EGRESS_DATABASE") as refused:
        database_rules(Options(), Endpoint(host, 5432))

    assert f"the database is at {host}, a name whose addresses may change" in refused.value.message


def test_the_setting_wins_over_the_address() -> None:
    options = Options(egress_database=(EgressRule.model_validate(to("192.0.2.0/24", port=5432)),))
    rules = policy(plan(), options)

    assert lets_out(rules, "192.0.2.9", 5432)
    assert not lets_out(rules, DATABASE.host, 5432)


def test_the_internet_is_the_internet() -> None:
    rules = policy(plan(to("0.0.0.0/0", "::/0")))

    assert lets_out(rules, "203.0.113.9", 443)
    assert lets_out(rules, "2001:db8::9", 443)
    for address in (METADATA, "168.63.129.16", "10.96.0.1", "192.168.1.1", "172.20.0.1", "100.100.100.200"):
        assert not lets_out(rules, address, 443)
    for address in ("fe80::1", "fd00:ec2::254"):
        assert not lets_out(rules, address, 443)


def test_a_private_network_that_is_named_is_open() -> None:
    rules = policy(plan(to("10.20.0.0/16"), to("10.0.0.0/8", port=22), to(f"{METADATA}/32", port=80)))

    assert lets_out(rules, "10.20.1.1", 443)
    assert lets_out(rules, "10.99.1.1", 22)
    assert lets_out(rules, METADATA, 80)
    assert not lets_out(rules, "10.21.1.1", 443)


def test_what_the_platform_closes_is_its_own_to_say() -> None:
    closed = Options(egress_closed=("203.0.113.0/24",))
    rules = policy(plan(to("0.0.0.0/0")), closed)

    assert not lets_out(rules, "203.0.113.9", 443)
    assert lets_out(rules, "10.0.0.1", 443)


addresses = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), *(st.ip_addresses(network=each) for each in PRIVATE_NETWORKS)
)
cidrs = st.builds(
    lambda address, length: f"{address}/{min(length, address.max_prefixlen)}", addresses, st.integers(0, 128)
)


@given(st.lists(st.tuples(cidrs, st.lists(cidrs, max_size=2)), max_size=3), addresses)
def test_no_plan_opens_a_closed_network_but_by_naming_it_or_a_part_of_it(
    asked: list[tuple[str, list[str]]], address: IPv4Address | IPv6Address
) -> None:
    blocks = [(network(cidr), [network(each) for each in holes]) for cidr, holes in asked]
    legal = [
        (block, [hole for hole in holes if hole.version == block.version and hole != block and hole.subnet_of(block)])  # type: ignore[arg-type]
        for block, holes in blocks
    ]
    rules = egress_rules(
        Options(egress_dns=(), egress_database=()),
        plan(*(to(str(block), holes=[str(each) for each in holes]) for block, holes in legal)),
        DATABASE,
    )

    closed = [network(each) for each in PRIVATE_NETWORKS if address in network(each)]
    expected = any(
        address in block
        and not any(address in hole for hole in holes)
        and not any(block.version == each.version and each != block and each.subnet_of(block) for each in closed)  # type: ignore[arg-type]
        for block, holes in legal
    )
    assert lets_out(rules, str(address), 443) is expected


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (to("everywhere"), "'everywhere' is no network"),
        (to("10.0.0.0/33"), "'10.0.0.0/33' is no network"),
        (to("10.0.0.0/16", holes=["10.1.0.0/16"]), "except 10.1.0.0/16 does not lie within 10.0.0.0/16"),
        (to("10.0.0.0/16", holes=["10.0.0.0/16"]), "does not lie within"),
        (to("10.0.0.0/16", holes=["fd00::/64"]), "does not lie within"),
        ({"to": [], "ports": [{"port": 443}]}, "name at least one peer"),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": []}, "name at least one peer"),
        ({"to": [{}], "ports": [{"port": 443}]}, "a peer is an ipBlock, or a namespaceSelector"),
        ({"to": [{"podSelector": {"matchLabels": {"a": "b"}}}], "ports": [{"port": 443}]}, "a peer is an ipBlock"),
        ({"to": [{"namespaceSelector": {"matchLabels": {}}}], "ports": [{"port": 443}]}, "at least one label"),
        ({"to": [{"namespaceSelector": {"matchLabels": {"a b": "c"}}}], "ports": [{"port": 1}]}, "'a b' cannot be"),
        ({"to": [{"ipBlock": {"cidr": "::/0"}}], "ports": [{"port": 443, "endPort": 80}]}, "endPort 80 is less"),
    ],
)
def test_a_rule_that_makes_no_sense_is_a_finding_of_the_plan(rule: Rule, told: str) -> None:
    (finding,) = plans.findings_of(plan(rule), Options())

    assert finding.message.startswith("plan starter, egress: ")
    assert told in finding.message


def test_a_range_of_ports_and_pods_of_another_namespace_can_be_asked_for() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"team": "queues"}}, "podSelector": {"matchLabels": {"app": "kafka"}}}
    rule = {"to": [peer], "ports": [{"protocol": "TCP", "port": 9092, "endPort": 9094}]}

    assert policy(plan(rule))[-1] == rule


def test_serving_tenants_follow_a_change_of_what_they_may_reach() -> None:
    fingerprints = {
        digest(NAMES, plan(), Options(), DATABASE),
        digest(NAMES, plan(to("0.0.0.0/0")), Options(), DATABASE),
        digest(NAMES, plan(to("0.0.0.0/0")), Options(egress_closed=()), DATABASE),
        digest(NAMES, plan(), Options(egress_dns=()), DATABASE),
        digest(NAMES, plan(), Options(), Endpoint("198.51.100.8", 5432)),
    }

    assert len(fingerprints) == 5
