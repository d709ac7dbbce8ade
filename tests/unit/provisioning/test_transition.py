"""What is applied while the pods of the former plan still run."""

from decimal import Decimal
from typing import Any

import pytest

from tenant_operator.ports import Manifest
from tenant_operator.provisioning.quantities import amount, larger
from tenant_operator.provisioning.transition import during, former_ports


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("2", Decimal(2)),
        ("500m", Decimal("0.5")),
        ("1.5Gi", Decimal(1610612736)),
        ("4k", Decimal(4000)),
        ("1e3", Decimal(1000)),
        ("1E", Decimal(10) ** 18),
        (7, Decimal(7)),
        ("100n", Decimal("0.0000001")),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: object, number: Decimal) -> None:
    assert amount(quantity) == number


@pytest.mark.parametrize("text", ["", "many", "1 Gi", "1Kk", "Gi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        amount(text)


def test_of_two_quantities_the_larger_one_is_kept_as_it_was_written() -> None:
    assert larger("1Gi", "1000Mi") == "1Gi"
    assert larger("500m", "1") == "1"


def quota(**hard: str) -> Manifest:
    return {"kind": "ResourceQuota", "metadata": {"name": "tenant-quota"}, "spec": {"hard": hard}}


@pytest.mark.parametrize(
    ("wanted", "stored", "expected"),
    [
        (quota(pods="3"), quota(pods="10"), {"pods": "10"}),
        (quota(pods="10"), quota(pods="3"), {"pods": "10"}),
        (quota(pods="3", cpu="1"), quota(pods="10"), {"pods": "10"}),
        (quota(pods="3"), quota(cpu="1"), None),
        (quota(pods="3"), None, None),
    ],
    ids=["less", "more", "a new bound waits", "nothing in common", "the first bound waits"],
)
def test_a_quota_has_room_for_both(wanted: Manifest, stored: Manifest | None, expected: dict[str, str] | None) -> None:
    found = during(wanted, stored)

    assert (None if found is None else found["spec"]["hard"]) == expected


def port(name: str, number: int, target: object = None) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": target or name, "protocol": "TCP"}


def service(*ports: dict[str, Any]) -> Manifest:
    return {"kind": "Service", "metadata": {"name": "auth"}, "spec": {"ports": list(ports)}}


@pytest.mark.parametrize(
    ("wanted", "stored", "expected"),
    [
        ([port("http", 8080)], [port("http", 8080)], [port("http", 8080)]),
        ([port("http", 9090)], [port("http", 8080)], [port("http", 9090), port("was-8080", 8080, "http")]),
        ([port("web", 8080)], [port("http", 8080)], [port("web", 8080, 8080)]),
        ([port("web", 8080)], [port("web", 8080, 8080)], [port("web", 8080)]),
        (
            [port("http", 8080), port("more", 8081)],
            [port("http", 8080)],
            [port("http", 8080), port("more", 8081)],
        ),
    ],
    ids=["the same", "another number", "another name", "the name is settled", "one more"],
)
def test_a_service_leads_to_both(
    wanted: list[dict[str, Any]], stored: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    found = during(service(*wanted), service(*stored))

    assert found == service(*expected)


def test_a_service_that_is_new_is_as_the_plan_has_it() -> None:
    assert during(service(port("http", 8080)), None) == service(port("http", 8080))


def test_former_ports_are_those_that_the_plan_does_not_name() -> None:
    told = former_ports(service(port("http", 9090)), service(port("http", 9090), port("was-8080", 8080)))

    assert told == ["port 8080 of Service auth"]
