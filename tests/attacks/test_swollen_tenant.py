"""The attacker: a member who may edit Tenants in their own organisation, and swells the metadata of one.

Labels bypass the webhooks, so that nobody stops it; the API server stores what etcd takes, 1.5 MiB by default. Whatever
is done with such a Tenant then goes through the webhooks, twice as large: the old object and the new one.
"""

import json
from collections.abc import Iterator

import pytest

from devcluster import Environment
from tenant_operator.api.names import ANNOTATION_ACTION
from tests.e2e import catalog, webhook
from tests.e2e.feed import TenantFeed
from tests.e2e.waiting import until
from tests.e2e.webhook import ADMIN, OWNER, GatedWorld
from tests.e2e.world import World, settled

LABEL = 63 + 1 + 63
"""Bytes of one label, name and value."""
FIRST_STEP, LAST_STEP = 512 * 1024, 16 * 1024
"""Bytes that are added at a time, halved whenever they are too many. What is left is room for the journal."""
TOO_LARGE = ("too large", "Too long", "larger")
"""What etcd, the API server's validation of annotations, and its limit of requests say."""


@pytest.fixture(scope="module")
def module_world(
    platform: Environment, tenant_feed: TenantFeed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with webhook.gated_world(platform, tenant_feed, tmp_path_factory.mktemp("swollen")) as world:
        yield world


def swell(gate: GatedWorld, name: str, user: str, kind: str, last_step: int = LAST_STEP) -> int:
    """Add labels, or annotations, until the API server takes no more; the size of the Tenant then, in bytes."""
    step, number = FIRST_STEP, 0
    while step >= last_step:
        number += 1
        more = {f"{number:03}-{each:05}-{'k' * 48}": "v" * 63 for each in range(step // LABEL)}
        patch = json.dumps({"metadata": {kind: more}})
        answer = gate.ask_about(name, "patch", "--type=merge", "--patch-file=/dev/stdin", user=user, stdin=patch)
        if answer.code != 0:
            assert any(words in answer.err for words in TOO_LARGE), answer.err
            step //= 2
    where = (f"--namespace={catalog.NAMESPACE}", "--show-managed-fields")
    return len(json.dumps(json.loads(gate.kubectl("get", "tenant", name, *where, "--output=json"))))


@pytest.mark.parametrize("kind", ["labels", "annotations"])
def test_it_is_as_easy_to_get_rid_of_as_any_other(gate: GatedWorld, kind: str) -> None:
    tenant = gate.tenant(f"swollen-{kind}")
    tenant.settles("Active")

    size = swell(gate, tenant.name, ADMIN, kind)

    # Labels take all that etcd stores; of annotations the API server lets 256 KiB pass.
    assert size > (1280 * 1024 if kind == "labels" else 256 * 1024)
    illegal = gate.ask_about(tenant.name, "annotate", f"{ANNOTATION_ACTION}=cancel", user=OWNER)
    assert "cancel is possible in Provisioning only; the tenant is Active" in illegal.err
    lacking = gate.ask_about(tenant.name, "patch", *intent("Decommissioned"), user=ADMIN)
    assert "lacks the verb 'decommission'" in lacking.err
    answer = gate.ask_about(tenant.name, "patch", *intent("Decommissioned"), user=OWNER)
    assert answer.code == 0, answer.err
    tenant.settles("Decommissioned")
    tenant.holds_nothing()
    answer = gate.ask_about(tenant.name, "delete", "--wait=false", user=OWNER)
    assert answer.code == 0, answer.err
    until(lambda: gate.read("tenant", tenant.name, catalog.NAMESPACE) is None, "it is gone", 60)
    tenant.holds_nothing()


def test_whoever_leaves_no_room_for_the_journal_is_told_and_holds_nothing(gate: GatedWorld) -> None:
    tenant = gate.tenant("full-to-the-brim")
    tenant.settles("Active")
    answer = gate.ask_about(tenant.name, "patch", *intent("Decommissioned"), user=OWNER)
    assert answer.code == 0, answer.err
    tenant.settles("Decommissioned")
    swell(gate, tenant.name, ADMIN, "labels", last_step=LABEL)

    answer = gate.ask_about(tenant.name, "patch", *intent("Active"), user=OWNER)
    assert answer.code == 0, answer.err
    tenant.event("WriteRefused", says="request is too large")

    labels = json.dumps([{"op": "remove", "path": "/metadata/labels"}])
    answer = gate.ask_about(tenant.name, "patch", "--type=json", f"--patch={labels}", user=ADMIN)
    assert answer.code == 0, answer.err
    tenant.wait(lambda seen: settled(seen, "Active") or settled(seen, "Failed"), "comes to rest")
    if settled(tenant.newest(), "Failed"):  # the time that it could not be written down counts
        tenant.holds_nothing()
        tenant.act("retry")
    tenant.settles("Active")


def intent(state: str) -> tuple[str, str]:
    return "--type=merge", f"--patch={json.dumps({'spec': {'desiredState': state}})}"
