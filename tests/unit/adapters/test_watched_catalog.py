"""The catalogue says what the watches last reported."""

from itertools import count
from typing import Any

import pytest

from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey
from tests.unit.provisioning.cluster_world import a_plan

KEY = TenantKey("acme", "banking")
VERSIONS = count(1)


def tenant(name: str = "banking", organization: str = "acme", **status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {
            "name": name,
            "namespace": "acme",
            "uid": f"uid-{name}",
            "resourceVersion": str(next(VERSIONS)),
            "creationTimestamp": "2026-11-20T10:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"organization": organization, "plan": "starter", "admin": {"email": "ann@acme.example"}},
        "status": status,
    }


@pytest.fixture
def catalog() -> WatchedCatalog:
    return WatchedCatalog()


def test_a_tenant_is_known_by_its_key_and_its_organization(catalog: WatchedCatalog) -> None:
    catalog.observe_tenant(tenant())
    catalog.observe_tenant(tenant("retail"))
    catalog.observe_tenant(tenant("other", organization="umbrella"))

    assert {each.metadata.name for each in catalog.tenants_of("acme")} == {"banking", "retail"}
    assert {each.metadata.name for each in catalog.tenants_of("umbrella")} == {"other"}
    assert catalog.tenants_of("nobody") == ()
    assert len(catalog.tenants()) == 3
    found = catalog.memory.get(KEY)
    assert found is not None
    assert found.metadata.creation_timestamp is not None


def test_the_last_report_counts(catalog: WatchedCatalog) -> None:
    catalog.observe_tenant(tenant(state="Provisioning"))
    catalog.observe_tenant(tenant(state="Active"))

    (found,) = catalog.tenants_of("acme")
    assert found.status.state is TenantState.ACTIVE


def test_a_tenant_that_is_deleted_and_made_for_another_organization_moves(catalog: WatchedCatalog) -> None:
    catalog.observe_tenant(tenant())
    catalog.observe_tenant(tenant(organization="umbrella"))

    assert catalog.tenants_of("acme") == ()
    assert len(catalog.tenants_of("umbrella")) == 1


def test_a_deleted_tenant_is_forgotten(catalog: WatchedCatalog) -> None:
    catalog.observe_tenant(tenant())
    assert catalog.memory.forget(KEY, "uid-banking")
    catalog.memory.forget(KEY, "uid-banking")

    assert catalog.memory.get(KEY) is None
    assert catalog.memory.key_of_identity("uid-banking") is None
    assert catalog.tenants_of("acme") == ()
    assert catalog.tenants_with_slug("banking") == ()


def test_the_answer_to_a_write_that_comes_after_the_deletion_brings_nothing_back(catalog: WatchedCatalog) -> None:
    catalog.observe_tenant(tenant())
    late = Tenant.model_validate(tenant())
    catalog.memory.forget(KEY, "uid-banking")

    assert not catalog.memory.observe(late)
    assert catalog.tenants() == ()


def test_an_echo_is_told_before_it_is_parsed(catalog: WatchedCatalog) -> None:
    body = tenant()
    assert catalog.observe_tenant(body)
    del body["spec"]
    assert not catalog.observe_tenant(body)
    assert len(catalog.tenants()) == 1


def test_a_tenant_that_cannot_be_read_is_found_by_nobody_who_asks_what_there_is(catalog: WatchedCatalog) -> None:
    told: list[tuple[bool, bool]] = []
    catalog.memory.on_change = lambda before, after: told.append((before is not None, after is not None))
    catalog.observe_tenant(tenant())
    broken = tenant()
    del broken["spec"]["plan"]
    assert not catalog.observe_tenant(broken)

    assert catalog.tenants() == catalog.tenants_of("acme") == catalog.tenants_with_slug("banking") == ()
    assert catalog.tenants_in("acme") == 1, "it is there, and known to be"
    assert catalog.memory.get(KEY) is not None, "the saga that carries it goes on"

    catalog.observe_tenant(tenant())
    assert len(catalog.tenants()) == catalog.tenants_in("acme") == 1
    broken["metadata"]["resourceVersion"] = str(next(VERSIONS))
    catalog.observe_tenant(broken)
    assert catalog.memory.forget(KEY, "uid-banking")
    assert catalog.tenants_in("acme") == 0
    assert told == [(False, True), (True, False), (False, True), (True, False)]


def test_one_that_never_could_be_read_is_counted_until_it_is_gone(catalog: WatchedCatalog) -> None:
    broken = tenant()
    del broken["spec"]["plan"]
    catalog.observe_tenant(broken)
    assert catalog.tenants_in("acme") == 1
    assert catalog.memory.forget(KEY, "uid-banking")
    assert catalog.tenants_in("acme") == 0


def test_plans_and_organizations_come_and_go(catalog: WatchedCatalog) -> None:
    workload = {"name": "auth", "image": "registry.example/auth:1"}
    plan = {"metadata": {"name": "starter"}, "spec": {"workloads": [workload]}}
    organization = {"metadata": {"name": "acme"}, "spec": {"namespace": "acme"}}
    catalog.observe_plan("ADDED", plan)
    catalog.observe_organization("ADDED", organization)

    assert catalog.plan("starter") is not None
    assert catalog.organization("acme") in catalog.organizations()

    catalog.observe_plan("DELETED", plan)
    catalog.observe_organization("DELETED", organization)
    assert catalog.plan("starter") is None
    assert catalog.organization("acme") is None


def test_the_late_deletion_of_a_namesake_takes_nothing_away() -> None:
    """The events of two objects of the same name come in any order."""
    catalog = WatchedCatalog()
    plan = {"metadata": {"name": "starter", "uid": "new"}, "spec": {"workloads": []}}
    catalog.observe_plan("ADDED", plan)
    catalog.observe_plan("DELETED", {**plan, "metadata": {"name": "starter", "uid": "old"}})
    assert catalog.plan("starter") is not None

    catalog.observe_plan("DELETED", plan)
    assert catalog.plan("starter") is None


def test_a_plan_whose_status_alone_changed_has_the_same_spec_still() -> None:
    """What follows from a spec is remembered by it; a Plan's status changes with each tenant."""
    catalog, body = WatchedCatalog(), a_plan().to_wire()
    catalog.observe_plan("ADDED", body)
    first = catalog.plan("starter")
    catalog.observe_plan("MODIFIED", {**body, "status": {"tenants": 7}})
    second = catalog.plan("starter")
    catalog.observe_plan("MODIFIED", {**body, "spec": {**body["spec"], "displayName": "Another"}})
    third = catalog.plan("starter")

    assert first is not None and second is not None and third is not None
    assert second is not first and second.status.tenants == 7
    assert second.spec is first.spec
    assert third.spec is not first.spec
