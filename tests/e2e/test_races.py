"""Many who want what only few can have, all at once: who gets it is certain, and the others are told why not."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from tenant_operator.api.names import API_VERSION, LABEL_TENANT_UID
from tests.e2e import catalog
from tests.e2e.feed import Key, Object
from tests.e2e.world import World, condition, settled, status

CLIENTS = 5
"""kubectl processes that apply at the same time."""
SETTLE_SECONDS = 600.0
SEATS = 3
SEATED = "three-seats"
CROWDS = ("crowd", "queue", "throng")
"""Organisations that race at once: who is seen first and who was created first differ in one of them at least."""


def organization(name: str) -> Object:
    """An organisation with a namespace of its own."""
    plans = ["small", SEATED]
    return {
        "apiVersion": API_VERSION,
        "kind": "Organization",
        "metadata": {"name": name},
        "spec": {"namespace": f"e2e-{name}", "plans": plans},
    }


def tenant(name: str, organization: str, plan: str, **spec: str) -> Object:
    """A Tenant of one of these organisations."""
    written = catalog.tenant(name, plan, organization=organization, **spec)
    written["metadata"]["namespace"] = f"e2e-{organization}"
    return written


def key(manifest: Object) -> Key:
    metadata = manifest["metadata"]
    return metadata["namespace"], metadata["name"]


@pytest.fixture(scope="module")
def contested(module_world: World) -> Iterator[World]:
    """Organisations `c` and `b-c`, whose tenants `a-b` and `a` would be the same host, and those with few seats."""
    world, organizations = module_world, [organization(name) for name in ("c", "b-c", *CROWDS)]
    spaces = [each["spec"]["namespace"] for each in organizations]
    plan = catalog.plan(SEATED, limits={"tenants": SEATS})
    world.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": each}} for each in spaces))
    world.apply(plan, *organizations)
    yield world
    with ThreadPoolExecutor(len(spaces)) as pool:
        wheres = [f"--namespace={space}" for space in spaces]
        list(pool.map(lambda where: world.kubectl("delete", "tenants", "--all", where, "--timeout=120s"), wheres))
    world.kubectl("delete", "organization", *(each["metadata"]["name"] for each in organizations))
    world.kubectl("delete", "plan", SEATED)
    world.kubectl("delete", "namespace", *spaces, "--wait=false")


def apply_at_once(world: World, manifests: Sequence[Object]) -> list[Object]:
    """Several clients apply their share of the Tenants; what they are once each of them has come to rest."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda client: world.apply(*manifests[client::CLIENTS]), range(CLIENTS)))
    return at_rest(world, [key(each) for each in manifests])


def at_rest(world: World, keys: Sequence[Key]) -> list[Object]:
    """What the Tenants are once each is Active or Failed for good."""

    def rests(version: Object) -> bool:
        return settled(version, "Active") or settled(version, "Failed")

    return [each.tenant for each in world.feed.wait_all(keys, rests, "come to rest", SETTLE_SECONDS)]


def in_state(tenants: Sequence[Object], state: str) -> list[Object]:
    return [each for each in tenants if status(each)["state"] == state]


def holders(world: World, label: str) -> set[str]:
    """The UIDs of those who have a namespace, a database or a role for hosts that begin so."""
    found = world.listed("namespaces", f"--selector={LABEL_TENANT_UID}")
    named = [each["metadata"] for each in found if each["metadata"]["name"].startswith(f"tenant-{label}")]
    uids = {metadata["labels"][LABEL_TENANT_UID] for metadata in named}
    claimants = [each for each in world.listed("tenants", "--all-namespaces") if f"//{label}" in status(each)["url"]]
    stored = {name.removeprefix("tenant_").removesuffix("_id") for _, name in world.stored()}
    assert {each["metadata"]["uid"] for each in claimants if each["metadata"]["uid"].replace("-", "") in stored} == uids
    return uids


def test_one_host_has_one_tenant(contested: World) -> None:
    """Fifty Tenants of two organisations claim a-b-c: only one of these organisations gets tenants, and of its claims
    one holds the host. Each of the others says why not."""
    world = contested
    manifests = [
        *(tenant(f"claim-{number}", "c", "small", slug="a-b") for number in range(25)),
        *(tenant(f"claim-{number}", "b-c", "small", slug="a") for number in range(25)),
    ]
    mixed = list(chain.from_iterable(zip(manifests[:25], manifests[25:], strict=True)))
    tenants = apply_at_once(world, mixed)
    (holder,) = in_state(tenants, "Active")
    losers = in_state(tenants, "Failed")
    assert len(losers) == len(manifests) - 1
    uid = holder["metadata"]["uid"]
    who = f"belongs to tenant {holder['spec']['organization']}/{holder['spec']['slug']} (UID {uid})"
    rivals = [each for each in losers if each["spec"]["organization"] == holder["spec"]["organization"]]
    assert len(rivals) == len(manifests) / 2 - 1
    for loser in losers:
        message = condition(loser, "Ready")["message"]
        if loser in rivals:
            assert "host a-b-c.tenants.example is taken" in message
            assert who in message
        else:
            assert "the Organization gets no new tenants: spec.slug" in message
            assert uid not in message
        assert status(loser).get("allocations", []) == []
        assert status(loser)["attempt"] == 1
    assert holders(world, "a-b-c") == {uid}

    # Released, the host is free for whoever asks next.
    name, space = holder["metadata"]["name"], holder["metadata"]["namespace"]
    world.kubectl("delete", "tenant", name, f"--namespace={space}", "--timeout=60s")
    heir = rivals[0]
    world.kubectl("annotate", "tenant", heir["metadata"]["name"], f"--namespace={space}", "intelliauth.io/action=retry")
    world.feed.wait(key(heir), lambda each: settled(each, "Active"), "the heir is Active")
    assert holders(world, "a-b-c") == {heir["metadata"]["uid"]}


def test_the_first_have_the_seats(contested: World) -> None:
    """Five times as many as the limit: the first by creation are served, the others are told, and a seat given up
    goes to who asks again."""
    world = contested
    rows = [[tenant(f"seat-{number}", crowd, SEATED) for crowd in CROWDS] for number in range(5 * SEATS)]
    everybody = apply_at_once(world, list(chain.from_iterable(rows)))
    holding: set[str] = set()
    for crowd in CROWDS:
        tenants = [each for each in everybody if each["spec"]["organization"] == crowd]
        ranked = sorted(tenants, key=lambda each: (each["metadata"]["creationTimestamp"], each["metadata"]["uid"]))
        first, late = ranked[:SEATS], ranked[SEATS:]
        assert {key(each) for each in in_state(tenants, "Active")} == {key(each) for each in first}
        assert len(in_state(tenants, "Failed")) == len(late)
        for each in late:
            assert f"the plan's limit is {SEATS} per organization" in condition(each, "Ready")["message"]
            assert status(each).get("allocations", []) == []
        holding |= {each["metadata"]["uid"] for each in first}
    assert holders(world, "seat-") == holding

    # A Failed tenant keeps its place in the order: the last one is next once all between have left it.
    leaving, last = [key(each) for each in (first[0], *late[:-1])], key(late[-1])
    names, where = [name for _, name in leaving], f"--namespace={last[0]}"
    decommission = json.dumps({"spec": {"desiredState": "Decommissioned"}})
    world.kubectl("patch", "tenant", *names, where, "--type=merge", f"--patch={decommission}")
    world.feed.wait_all(leaving, lambda each: settled(each, "Decommissioned"), "Decommissioned", SETTLE_SECONDS)
    world.kubectl("annotate", "tenant", last[1], where, "intelliauth.io/action=retry")
    world.feed.wait(last, lambda each: settled(each, "Active"), "has the seat")
    left, came = first[0]["metadata"]["uid"], late[-1]["metadata"]["uid"]
    assert holders(world, "seat-") == holding - {left} | {came}
