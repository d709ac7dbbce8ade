"""Somebody has a namespace of his own, and copies the labels of a tenant onto objects in it.

Sven may do anything in that namespace and nothing elsewhere; he has learnt the UID of a Tenant, from a log say. What he
writes must wake nobody. The last test gives him the tenant's own namespace, as a workload with the rights of an
administrator would have it: what he puts there is no part of the tenant, either.
"""

import json
from collections.abc import Iterator
from itertools import count

import pytest

from tenant_operator.api.names import LABEL_MANAGED_BY, LABEL_ORGANIZATION, LABEL_TENANT, LABEL_TENANT_UID
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World

ELSEWHERE = "e2e-elsewhere"
PATCHES = 15
WATCHED = {
    "ingress": "tenant",
    "networkpolicy": "default-deny",
    "service": "auth",
    "resourcequota": "tenant-quota",
    "deployment": "auth",
}
"""One object of each kind that the operator hears of."""


_NUMBERS = count(1)


def labels(tenant: TenantUnderTest) -> dict[str, str]:
    """All that the operator puts on what it makes for the tenant."""
    return {
        LABEL_MANAGED_BY: "tenant-operator",
        LABEL_TENANT_UID: tenant.uid,
        LABEL_TENANT: tenant.name,
        LABEL_ORGANIZATION: catalog.ORGANIZATION,
        "app.kubernetes.io/component": "workload",
    }


def copies(tenant: TenantUnderTest, where: str, name: str = "auth") -> list[Object]:
    """Objects like those of a tenant, in another place."""
    selector = {"matchLabels": {"app": name}}
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "auth", "image": "auth:1"}]}}
    backend = {"service": {"name": name, "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    rule = {"host": "elsewhere.example", "http": {"paths": [path]}}
    kinds = [
        ("apps/v1", "Deployment", name, {"replicas": 1, "selector": selector, "template": pod}),
        ("networking.k8s.io/v1", "NetworkPolicy", "default-deny", {"podSelector": {}, "policyTypes": ["Ingress"]}),
        ("networking.k8s.io/v1", "Ingress", "tenant", {"rules": [rule]}),
        ("v1", "Service", name, {"ports": [{"name": "http", "port": 80}]}),
        ("v1", "ResourceQuota", "tenant-quota", {"hard": {"pods": "1"}}),
    ]
    return [
        {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": its_name, "namespace": where, "labels": labels(tenant)},
            "spec": spec,
        }
        for version, kind, its_name, spec in kinds
    ]


def corrections(tenant: TenantUnderTest) -> int:
    """How often the tenant was told that something was put right. Events of one kind are counted in one."""
    return sum(
        (event.get("series") or {}).get("count", 1) for event in tenant.events() if event["reason"] == "DriftCorrected"
    )


def version(world: World, tenant: TenantUnderTest) -> str:
    found = world.read("tenant", tenant.name, catalog.NAMESPACE)
    assert found is not None
    resource_version: str = found["metadata"]["resourceVersion"]
    return resource_version


def scale(world: World, name: str, where: str, times: int = PATCHES) -> None:
    """Change a Deployment that many times."""
    for n in range(times):
        change = json.dumps({"spec": {"template": {"metadata": {"annotations": {"try": str(n)}}}}})
        world.kubectl("patch", "deployment", name, f"--namespace={where}", "--type=merge", f"--patch={change}")


def is_heard_of(world: World, witness: TenantUnderTest) -> None:
    """Returns once the operator has heard of all that happened before: of the objects of one kind it hears in order,
    and of each kind something of the witness's own is deleted now, and comes back."""
    for kind, name in WATCHED.items():
        uid = witness.object(kind, name)["metadata"]["uid"]
        world.kubectl("delete", kind, name, f"--namespace={witness.namespace}")

        def is_back(kind: str = kind, name: str = name, uid: str = uid) -> bool:
            found = world.read(kind, name, witness.namespace)
            return found is not None and found["metadata"]["uid"] != uid

        until(is_back, f"{kind} {name} of the witness is back", 60)


@pytest.fixture
def serving(world: World) -> Iterator[tuple[TenantUnderTest, TenantUnderTest]]:
    """The tenant that is attacked, and one that is a witness."""
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE}})
    number = next(_NUMBERS)  # those of the test before are still being deleted
    attacked, witness = world.tenants([f"attacked-{number}", f"witness-{number}"], "standard")
    attacked.settles("Active")
    witness.settles("Active")
    yield attacked, witness
    world.kubectl("delete", "namespace", ELSEWHERE)


def test_what_is_done_to_copies_elsewhere_wakes_nobody(
    world: World, serving: tuple[TenantUnderTest, TenantUnderTest]
) -> None:
    attacked, witness = serving
    before = version(world, attacked)

    world.apply(*copies(attacked, ELSEWHERE))
    scale(world, "auth", ELSEWHERE)
    where = f"--namespace={ELSEWHERE}"
    world.kubectl("delete", "deployment,service", "auth", where)
    world.kubectl("delete", "ingress/tenant", "networkpolicy/default-deny", "resourcequota/tenant-quota", where)
    is_heard_of(world, witness)

    assert corrections(attacked) == 0
    assert version(world, attacked) == before


def test_a_namespace_that_looks_like_a_tenants_is_nobodys(
    world: World, serving: tuple[TenantUnderTest, TenantUnderTest]
) -> None:
    attacked, witness = serving
    before = version(world, attacked)
    metadata = {"name": "e2e-lookalike", "labels": labels(attacked)}

    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    world.kubectl("delete", "namespace", "e2e-lookalike")
    is_heard_of(world, witness)

    assert corrections(attacked) == 0
    assert version(world, attacked) == before


def test_what_is_put_into_a_tenants_own_namespace_is_no_part_of_it(
    world: World, serving: tuple[TenantUnderTest, TenantUnderTest]
) -> None:
    attacked, witness = serving
    before = version(world, attacked)
    miner, *_ = copies(attacked, attacked.namespace, "miner")
    miner["spec"]["replicas"] = 0

    world.apply(miner)
    scale(world, "miner", attacked.namespace)
    world.kubectl("delete", "deployment", "miner", f"--namespace={attacked.namespace}")
    is_heard_of(world, witness)

    assert corrections(attacked) == 0
    assert version(world, attacked) == before
    # What it is made of is put right as ever.
    world.kubectl("delete", "deployment", "auth", f"--namespace={attacked.namespace}")
    until(lambda: world.read("deployment", "auth", attacked.namespace), "auth is back")
    attacked.event("Repaired")
