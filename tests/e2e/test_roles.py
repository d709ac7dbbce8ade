"""What owners, admins, viewers and strangers may do: logged in for real, through kubectl."""

import json
from collections.abc import Iterator

import pytest

from devcluster import Environment
from tenant_operator.api.names import ANNOTATION_ACTION
from tests.e2e import catalog, webhook
from tests.e2e.feed import TenantFeed
from tests.e2e.waiting import until
from tests.e2e.webhook import ADMIN, EDITOR, OWNER, STRANGER, VIEWER, GatedWorld
from tests.e2e.world import TenantUnderTest, World

DRY = "--dry-run=server"
NEW = json.dumps(catalog.tenant("new", "small"))

DEMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "look": ("serving", ("get",)),
    "provision": ("", ()),
    "cancel": ("running", ("annotate", DRY, f"{ANNOTATION_ACTION}=cancel")),
    "retry": ("failed", ("annotate", DRY, f"{ANNOTATION_ACTION}=retry")),
    "reset": ("failed", ("annotate", DRY, f"{ANNOTATION_ACTION}=reset")),
    "suspend": ("serving", ("patch", DRY, "--type=merge", '--patch={"spec":{"desiredState":"Suspended"}}')),
    "decommission": ("serving", ("patch", DRY, "--type=merge", '--patch={"spec":{"desiredState":"Decommissioned"}}')),
    "delete": ("serving", ("delete", DRY)),
    "edit": ("serving", ("patch", DRY, "--type=merge", '--patch={"spec":{"displayName":"other"}}')),
    "label": ("serving", ("label", DRY, "colour=blue")),
}
"""The Tenant that a demand is made of, and the kubectl command that makes it."""

MAY = {
    OWNER: set(DEMANDS),
    ADMIN: set(DEMANDS) - {"decommission", "delete"},
    VIEWER: {"look"},
    EDITOR: {"look", "edit", "label"},
    STRANGER: set(),
}


@pytest.fixture(scope="module")
def module_world(
    platform: Environment, tenant_feed: TenantFeed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with webhook.gated_world(platform, tenant_feed, tmp_path_factory.mktemp("roles")) as world:
        yield world


@pytest.fixture(scope="module")
def tenants(module_world: GatedWorld) -> Iterator[None]:
    """A Tenant that serves, one that is on its way, and one that failed."""
    named = {
        name: module_world.tenant(name, plan)
        for name, plan in (("serving", "small"), ("running", "endless"), ("failed", "crash-loop"))
    }
    module_world.applied.clear()  # they outlive the single test
    named["serving"].settles("Active")
    named["running"].runs("wait-ready")
    named["failed"].settles("Failed")
    yield
    module_world.delete(list(named.values()), wait=False)


@pytest.fixture
def gate(module_world: GatedWorld, tenants: None) -> GatedWorld:
    return module_world


@pytest.mark.parametrize("demand", DEMANDS)
@pytest.mark.parametrize("user", MAY)
def test_who_may_do_what(gate: GatedWorld, user: str, demand: str) -> None:
    tenant, command = DEMANDS[demand]

    if demand == "provision":
        answer = gate.ask_as(user, "create", DRY, "--filename=-", stdin=NEW)
    else:
        verb, *options = command
        answer = gate.ask_about(tenant, verb, *options, user=user)

    assert (answer.code == 0) is (demand in MAY[user]), answer.err
    if demand not in MAY[user]:
        assert f"'{user}'" in answer.err or f'"{user}"' in answer.err
        assert "lacks the verb" in answer.err or "forbidden" in answer.err.lower()


def test_a_role_that_only_writes_is_told_which_verb_it_lacks(gate: GatedWorld) -> None:
    for demand, verbs in (
        ("cancel", "'cancel'"),
        ("retry", "'provision' and 'retry'"),
        ("suspend", "'suspend'"),
        ("decommission", "'decommission'"),
        ("delete", "'decommission'"),
    ):
        tenant, (verb, *options) = DEMANDS[demand]
        refused = gate.ask_about(tenant, verb, *options, user=EDITOR).err
        assert f"user '{EDITOR}' lacks the verb {verbs} on tenants.intelliauth.io" in refused


def test_a_role_that_is_withdrawn_is_withdrawn_at_once(gate: GatedWorld) -> None:
    organization = webhook.organization()
    organization["spec"]["members"] = [each for each in organization["spec"]["members"] if each["name"] != ADMIN]
    suspend = DEMANDS["suspend"][1]
    gate.apply(organization)
    try:
        until(lambda: gate.ask_about("serving", *suspend, user=ADMIN).code != 0, "the former admin can suspend nothing")
        assert gate.ask_about("serving", *suspend, user=OWNER).code == 0
    finally:
        gate.apply(webhook.organization())
        until(gate.has_roles, "the admin has the role again")


def test_what_was_asked_is_known_by_who_asked(gate: GatedWorld) -> None:
    answer = gate.ask_as(ADMIN, "create", "--filename=-", stdin=json.dumps(catalog.tenant("signed", "endless")))
    assert answer.code == 0, answer.err
    tenant: TenantUnderTest = gate.tenant("signed", "endless")
    tenant.runs("wait-ready")
    assert gate.ask_about("signed", "annotate", f"{ANNOTATION_ACTION}=cancel", user=OWNER).code == 0
    tenant.settles("Pending")

    actors = {event["type"]: event["actor_id"] for event in tenant.feed()}
    assert actors["tenant.provisioning.started"] == ADMIN
    assert actors["tenant.provisioning.cancelled"] == OWNER
    assert tenant.answer("cancel", "Accepted")["requestedBy"] == OWNER
    gate.clean_up()
