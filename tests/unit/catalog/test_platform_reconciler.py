"""Organizations and Plans brought up to date, over a cluster in memory."""

import asyncio
from typing import Any

import pytest

from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog.platform_reconciler import RECHECK_SECONDS, RESYNC_SECONDS, PlatformKey, PlatformReconciler
from tenant_operator.catalog.roles import RBAC_VERSION, role_bindings
from tenant_operator.ports import Manifest, ObjectRef, TenantKey
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.fakes.cluster import FakeCluster
from tests.fakes.platform_store import FakePlatformStore
from tests.fakes.replicas import FakeReplicas
from tests.unit.provisioning.cluster_world import HandClock

ANN = {"kind": "User", "name": "ann@acme.example", "role": "owner"}
BOB = {"kind": "User", "name": "bob@acme.example", "role": "viewer"}
PLAN = {"workloads": [{"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}]}
BY_HAND = {"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}


class Platform:
    """One Organization, acme, and what is around it."""

    def __init__(self) -> None:
        clock = HandClock()
        self.cluster = FakeCluster(clock, terminating_looks=0)
        self.store = FakePlatformStore(self.cluster)
        self.catalog = WatchedCatalog()
        self.store.subscribe(self._observe)
        self.open_databases: list[str] = []
        self.replicas = FakeReplicas()
        self.reconciler = PlatformReconciler(
            self.store,
            self.cluster,
            self.catalog,
            clock,
            Options(),
            self.replicas,
            open_databases=lambda: self.open_databases,
        )
        self.effects: list[tuple[str, str]] = []
        self.cluster.after = self._note

    def _observe(self, event: str, body: dict[str, Any]) -> None:
        if body["kind"] == "Plan":
            self.catalog.observe_plan(event, body)
        else:
            self.catalog.observe_organization(event, body)

    async def _note(self, operation: str, name: str) -> None:
        self.effects.append((operation, name))

    def organization(self, name: str = "acme", *members: dict[str, str], **spec: Any) -> None:
        self.store.apply(Organization, name, {"namespace": "acme", "members": list(members), **spec})

    async def namespace(self, name: str = "acme") -> None:
        await self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.effects.clear()

    async def reconcile(self, name: str = "acme", kind: type[Organization] | type[Plan] = Organization) -> float | None:
        return await self.reconciler.reconcile(PlatformKey(kind, name), asyncio.Event())

    def bound(self, namespace: str = "acme") -> dict[str, list[str]]:
        """The names of the subjects, by the name of the RoleBinding."""
        return {
            each["metadata"]["name"]: [subject["name"] for subject in each["subjects"]]
            for each in self.cluster.objects("RoleBinding", namespace)
        }

    def ready(self, name: str = "acme") -> tuple[str, str, str]:
        return _ready(self.store.organization(name))

    async def replace(self, name: str, **changes: Any) -> None:
        """Somebody deletes a RoleBinding and makes another in its place."""
        ref = ObjectRef(RBAC_VERSION, "RoleBinding", name, "acme")
        old: Manifest = await self.cluster.get(ref) or {"apiVersion": RBAC_VERSION, "kind": "RoleBinding"}
        await self.cluster.delete(ref)
        await self.cluster.create({**old, "metadata": {"name": name, "namespace": "acme"}, **changes})
        self.effects.clear()


def _ready(resource: Organization | Plan) -> tuple[str, str, str]:
    ready = find_condition(resource.status.conditions, ConditionType.READY)
    assert ready is not None
    return ready.status.value, ready.reason, ready.message


@pytest.fixture
async def platform() -> Platform:
    platform = Platform()
    await platform.namespace()
    return platform


async def test_members_are_bound_and_the_status_says_so_once(platform: Platform) -> None:
    platform.organization("acme", ANN, BOB)

    assert await platform.reconcile() == RESYNC_SECONDS
    assert platform.bound() == {"intelliauth-owner": [ANN["name"]], "intelliauth-viewer": [BOB["name"]]}
    assert platform.ready()[:2] == ("True", "Reconciled")
    assert platform.store.organization("acme").status.observed_generation == 1

    platform.effects.clear()
    writes = platform.store.writes
    assert await platform.reconcile() == RESYNC_SECONDS
    assert (platform.effects, platform.store.writes) == ([], writes)


async def test_what_is_another_replicas_is_left_to_that_one(platform: Platform) -> None:
    platform.organization("acme", ANN)
    key = PlatformKey(Organization, "acme")
    platform.replicas.others.add(key)
    platform.effects.clear()
    assert await platform.reconciler.reconcile(key, asyncio.Event()) is None
    assert platform.effects == []
    platform.replicas.others.clear()
    assert await platform.reconciler.reconcile(key, asyncio.Event()) is not None
    assert platform.effects


async def test_role_bindings_follow_the_members(platform: Platform) -> None:
    platform.organization("acme", ANN, BOB)
    await platform.reconcile()
    platform.effects.clear()

    platform.organization("acme", ANN, {**BOB, "role": "owner"})
    await platform.reconcile()

    assert platform.bound() == {"intelliauth-owner": [ANN["name"], BOB["name"]]}
    assert platform.effects == [
        ("delete", "RoleBinding acme/intelliauth-viewer"),
        ("apply", "RoleBinding acme/intelliauth-owner"),
    ]


async def test_role_bindings_follow_the_namespace(platform: Platform) -> None:
    platform.organization("acme", ANN)
    await platform.reconcile()
    await platform.namespace("elsewhere")

    platform.organization("acme", ANN, namespace="elsewhere")
    await platform.reconcile()

    assert (platform.bound("acme"), platform.bound("elsewhere")) == ({}, {"intelliauth-owner": [ANN["name"]]})


async def test_a_deleted_or_edited_role_binding_is_put_right(platform: Platform) -> None:
    platform.organization("acme", ANN, BOB)
    await platform.reconcile()
    (owners, _) = role_bindings(platform.store.organization("acme"))
    await platform.cluster.apply({**owners, "subjects": [BY_HAND]})
    await platform.cluster.delete(ObjectRef(RBAC_VERSION, "RoleBinding", "intelliauth-viewer", "acme"))

    await platform.reconcile()

    assert platform.bound() == {"intelliauth-owner": [ANN["name"]], "intelliauth-viewer": [BOB["name"]]}


async def test_a_role_binding_of_ours_that_grants_another_role_is_made_anew(platform: Platform) -> None:
    platform.organization("acme", BOB)
    await platform.reconcile()
    (viewers,) = role_bindings(platform.store.organization("acme"))
    await platform.replace("intelliauth-viewer", metadata=viewers["metadata"], roleRef={"name": "cluster-admin"})

    await platform.reconcile()

    (binding,) = platform.cluster.objects("RoleBinding")
    assert binding["roleRef"]["name"] == "intelliauth-viewer"
    assert platform.effects == [
        ("delete", "RoleBinding acme/intelliauth-viewer"),
        ("create", "RoleBinding acme/intelliauth-viewer"),
    ]


async def test_a_role_binding_that_lost_its_labels_gets_them_back(platform: Platform) -> None:
    platform.organization("acme", BOB)
    await platform.reconcile()
    (viewers,) = role_bindings(platform.store.organization("acme"))
    relabelled = {**viewers["metadata"], "labels": {"intelliauth.io/organization": "other"}}
    await platform.replace("intelliauth-viewer", metadata=relabelled)

    await platform.reconcile()

    assert platform.ready()[0] == "True"
    assert await platform.store.role_bindings("acme") == platform.cluster.objects("RoleBinding")


async def test_a_role_binding_of_somebody_else_is_left_alone_and_told(platform: Platform) -> None:
    platform.organization("acme", ANN, BOB)
    await platform.replace("intelliauth-owner", subjects=[BY_HAND], roleRef={"name": "view"})

    assert await platform.reconcile() == RECHECK_SECONDS

    assert platform.bound() == {"intelliauth-owner": ["eve"], "intelliauth-viewer": [BOB["name"]]}
    assert platform.ready() == (
        "False",
        "RoleBindingTaken",
        "RoleBinding acme/intelliauth-owner is not kept by the operator, which leaves it alone; delete or rename it",
    )
    assert find_condition(platform.store.organization("acme").status.conditions, ConditionType.STALLED)

    await platform.cluster.delete(ObjectRef(RBAC_VERSION, "RoleBinding", "intelliauth-owner", "acme"))
    await platform.reconcile()
    assert platform.bound()["intelliauth-owner"] == [ANN["name"]]
    assert platform.ready()[0] == "True"


async def test_two_organizations_do_not_share_a_namespace(platform: Platform) -> None:
    platform.organization("acme", ANN)
    platform.organization("other", {**BOB, "role": "owner"})
    await platform.reconcile("acme")

    await platform.reconcile("other")

    assert platform.bound() == {"intelliauth-owner": [ANN["name"]]}
    assert platform.ready("other") == (
        "False",
        "NamespaceTaken",
        "spec.namespace 'acme': is the namespace of Organization acme; give each Organization a namespace of its own",
    )
    await platform.reconcile("acme")
    assert platform.ready("acme")[0] == "True"


async def test_a_newcomer_gets_no_role_that_the_others_members_happen_not_to_have(platform: Platform) -> None:
    platform.organization("acme", ANN)
    await platform.reconcile("acme")
    platform.organization("other", BOB)

    await platform.reconcile("other")

    assert platform.bound() == {"intelliauth-owner": [ANN["name"]]}


async def test_roles_go_where_they_should_never_have_been(platform: Platform) -> None:
    """They were given before anybody knew better."""
    platform.organization("acme", ANN)
    platform.organization("other", BOB)
    for binding in role_bindings(platform.store.organization("other")):
        await platform.cluster.create(binding)

    await platform.reconcile("acme")
    await platform.reconcile("other")

    assert platform.bound() == {"intelliauth-owner": [ANN["name"]]}


async def test_an_old_organization_that_moves_in_does_not_harm_who_lives_there(platform: Platform) -> None:
    await platform.namespace("elsewhere")
    platform.organization("old", BOB, namespace="elsewhere")
    platform.organization("acme", ANN)
    await platform.reconcile("old")
    await platform.reconcile("acme")

    platform.organization("old", BOB, namespace="acme")
    await platform.reconcile("old")
    await platform.reconcile("acme")

    assert platform.ready("acme")[0] == "True"
    assert platform.ready("old")[1] == "NamespaceTaken"
    assert platform.bound() == {"intelliauth-owner": [ANN["name"]]}
    assert platform.bound("elsewhere") == {}


@pytest.mark.parametrize("name", ["kube-system", "tenant-operator", "tenant-portal-acme"])
async def test_nobody_gets_roles_in_a_namespace_of_the_platform_or_of_a_tenant(platform: Platform, name: str) -> None:
    await platform.namespace(name)
    platform.organization("acme", ANN, namespace=name)
    for binding in role_bindings(platform.store.organization("acme")):
        await platform.cluster.create(binding)

    assert await platform.reconcile() == RECHECK_SECONDS

    assert platform.bound(name) == {}
    assert platform.ready()[1] == "NamespaceReserved"
    assert find_condition(platform.store.organization("acme").status.conditions, ConditionType.STALLED)


async def test_of_two_organizations_that_clash_the_later_one_is_not_ready(platform: Platform) -> None:
    await platform.namespace("my-acme")
    platform.organization("acme", ANN)
    platform.organization("my-acme", BOB, namespace="my-acme")

    await platform.reconcile("acme")
    assert await platform.reconcile("my-acme") == RECHECK_SECONDS

    assert platform.ready("acme")[0] == "True"
    assert platform.ready("my-acme") == (
        "False",
        "SlugTaken",
        "spec.slug 'my-acme': the hosts of its tenants could be those of Organization acme, whose slug is 'acme'; "
        "create the Organization anew with a slug that ends no other's after a dash, nor is ended so",
    )
    # Its tenants that serve have to be looked after.
    assert platform.bound("my-acme") == {"intelliauth-viewer": [BOB["name"]]}

    platform.store.delete(Organization, "acme")
    await platform.reconcile("my-acme")
    assert platform.ready("my-acme")[0] == "True"


async def test_an_organization_that_left_tenants_behind_says_so_until_they_are_gone(platform: Platform) -> None:
    platform.organization("acme", ANN)
    await platform.namespace("new")
    await platform.reconcile()
    assert platform.store.organization("acme").status.namespace == "acme"
    platform.catalog.observe_tenant(a_tenant("banking", "Decommissioned"))

    platform.organization("acme", ANN, namespace="new")
    await platform.reconcile()

    assert platform.ready()[1] == "TenantsLeftBehind"
    assert "1 Tenant lives in namespace acme, where no member could reach them; keep acme" in platform.ready()[2]
    assert platform.store.organization("acme").status.namespace == "acme"
    assert (platform.bound("acme"), platform.bound("new")) == ({}, {"intelliauth-owner": [ANN["name"]]})

    assert platform.catalog.memory.forget(TenantKey("acme", "banking"), "uid-banking")
    await platform.reconcile()
    assert platform.ready()[0] == "True"
    assert platform.store.organization("acme").status.namespace == "new"


async def test_a_missing_namespace_is_waited_for(platform: Platform) -> None:
    platform.organization("acme", ANN, namespace="later")

    assert await platform.reconcile() == RECHECK_SECONDS
    assert platform.ready() == ("False", "NamespaceNotFound", "namespace later does not exist; create it")
    assert find_condition(platform.store.organization("acme").status.conditions, ConditionType.RECONCILING)

    await platform.namespace("later")
    await platform.reconcile()
    assert platform.bound("later") == {"intelliauth-owner": [ANN["name"]]}
    assert platform.ready()[0] == "True"


async def test_a_plan_that_does_not_exist_is_named_and_roles_are_given_nevertheless(platform: Platform) -> None:
    platform.organization("acme", ANN, plans=["starter", "gold"])
    platform.store.apply(Plan, "starter", PLAN)

    await platform.reconcile()

    assert platform.ready()[1:] == (
        "PlanNotFound",
        "plan gold does not exist; create it, or remove it from spec.plans",
    )
    assert platform.bound() == {"intelliauth-owner": [ANN["name"]]}


async def test_an_organization_whose_name_fits_no_label_binds_nobody(platform: Platform) -> None:
    platform.organization("a" * 64, ANN)

    await platform.reconcile("a" * 64)

    assert platform.bound() == {}
    assert platform.ready("a" * 64)[1] == "InvalidName"


@pytest.mark.parametrize(
    ("error", "condition"),
    [(Unavailable("busy"), ConditionType.RECONCILING), (Rejected("forbidden: may not bind"), ConditionType.STALLED)],
)
async def test_what_the_api_server_refuses_is_told_and_stops_no_other_role(
    platform: Platform, error: Exception, condition: ConditionType
) -> None:
    platform.organization("acme", ANN, BOB)

    async def refuse(operation: str, name: str) -> None:
        if name.endswith("intelliauth-owner"):
            raise error

    platform.cluster.before = refuse

    assert await platform.reconcile() == RECHECK_SECONDS
    assert platform.bound() == {"intelliauth-viewer": [BOB["name"]]}
    assert platform.ready() == ("False", "RoleBindingFailed", str(error))
    assert find_condition(platform.store.organization("acme").status.conditions, condition)


async def test_a_status_that_cannot_be_written_is_tried_again(platform: Platform) -> None:
    platform.organization("acme", ANN)

    async def refuse(operation: str, name: str) -> None:
        raise Unavailable("the API server did not answer")

    platform.store.before = refuse

    assert await platform.reconcile() == RECHECK_SECONDS


async def test_a_version_that_is_behind_is_not_written_over_a_newer_one(platform: Platform) -> None:
    platform.organization("acme", ANN)
    known = platform.store.organization("acme")
    platform.organization("acme", ANN, displayName="Acme")
    platform.catalog.observe_organization("MODIFIED", known.to_wire())

    again = await platform.reconcile()

    assert again is not None and again < 2
    assert platform.store.writes == 0


async def test_what_is_gone_is_left_to_garbage_collection(platform: Platform) -> None:
    """An Organization that cannot be read looks just the same, and must not cost its members their access."""
    platform.organization("acme", ANN)
    await platform.reconcile()
    platform.store.delete(Organization, "acme")

    assert await platform.reconcile() is None
    assert await platform.reconcile(kind=Plan) is None
    (binding,) = platform.cluster.objects("RoleBinding")
    assert [owner["kind"] for owner in binding["metadata"]["ownerReferences"]] == ["Organization"]


async def test_an_organization_made_anew_owns_its_role_bindings(platform: Platform) -> None:
    platform.organization("acme", ANN)
    await platform.reconcile()
    platform.store.delete(Organization, "acme")
    platform.organization("acme", ANN)

    await platform.reconcile()

    (binding,) = platform.cluster.objects("RoleBinding")
    uid = platform.store.organization("acme").metadata.uid
    assert [owner["uid"] for owner in binding["metadata"]["ownerReferences"]] == [uid]


def a_tenant(name: str, state: str, plan: str = "starter") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "acme", "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": {"organization": "acme", "plan": plan, "admin": {"email": "ann@acme.example"}},
        "status": {"state": state},
    }


async def test_tenants_are_counted_for_their_organization_and_their_plan(platform: Platform) -> None:
    platform.organization("acme")
    platform.store.apply(Plan, "starter", PLAN)
    for number, state in enumerate(["Active", "Active", "Failed", "Decommissioned"]):
        platform.catalog.observe_tenant(a_tenant(f"t{number}", state))

    await platform.reconcile()
    assert await platform.reconcile("starter", Plan) == RESYNC_SECONDS

    assert platform.store.organization("acme").status.tenants == {"Active": 2, "Failed": 1, "Decommissioned": 1}
    plan = platform.store.plan("starter")
    assert plan.status.tenants == 3
    assert _ready(plan)[:2] == ("True", "Reconciled")

    writes = platform.store.writes
    await platform.reconcile("starter", Plan)
    assert platform.store.writes == writes


async def test_a_tenant_elsewhere_that_names_the_organization_is_none_of_its_tenants(platform: Platform) -> None:
    platform.organization("acme")
    await platform.reconcile()
    planted = a_tenant("planted", "Failed")
    planted["metadata"]["namespace"] = "elsewhere"
    platform.catalog.observe_tenant(planted)
    writes = platform.store.writes

    await platform.reconcile()

    assert platform.store.organization("acme").status.tenants == {}
    assert platform.store.writes == writes


async def test_a_broken_plan_says_what_is_broken(platform: Platform) -> None:
    platform.store.apply(Plan, "starter", PLAN | {"readiness": {"url": "https://{{ hots }}/"}})

    await platform.reconcile("starter", Plan)

    status, reason, message = _ready(platform.store.plan("starter"))
    assert (status, reason) == ("False", "InvalidPlan")
    assert "'hots' is undefined" in message

    platform.store.apply(Plan, "starter", PLAN)
    await platform.reconcile("starter", Plan)
    assert _ready(platform.store.plan("starter"))[0] == "True"


async def test_a_database_that_tenants_could_enter_is_told_and_leaves_the_organization_ready() -> None:
    platform = Platform()
    platform.organization()
    await platform.namespace()
    door = 'tenants\' roles can connect to database "postgres"; as its owner or as a superuser: REVOKE CONNECT'
    told = []
    for platform.open_databases in ([door], []):
        await platform.reconcile()
        organization = platform.store.organization("acme")
        condition = find_condition(organization.status.conditions, ConditionType.DATABASES_CLOSED)
        assert condition is not None
        told.append((condition.status.value, condition.reason, condition.message))
        assert platform.ready()[0] == "True"
    assert told == [
        ("False", "Open", door),
        ("True", "Closed", "tenants' roles can connect to no database but their own"),
    ]
