"""A real API server takes the CRDs and the samples, and refuses bad objects with a message that helps."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import DevCluster, Environment
from tenant_operator.api.conditions import ConditionType, ConditionUpdate, Reason, set_condition
from tenant_operator.api.fields import MESSAGE_MAX_LENGTH
from tenant_operator.api.meta import ConditionStatus
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import AllocationState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import Allocation, OutboxEvent, TenantStatus

ROOT = Path(__file__).parents[2]
NAMESPACE = "cymmetri"

Object = dict[str, Any]


class ApiServer:
    """kubectl against the cluster of the tests."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def kubectl(self, *arguments: str, stdin: Object | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            [self._environment.kubectl, f"--kubeconfig={self._environment.kubeconfig}", *arguments],
            input=json.dumps(stdin) if stdin else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def must(self, *arguments: str, stdin: Object | None = None) -> str:
        result = self.kubectl(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def apply(self, given: Object) -> subprocess.CompletedProcess[str]:
        return self.kubectl("apply", "--server-side", "-f", "-", stdin=given)

    def write_status(self, name: str, status: TenantStatus) -> None:
        body = json.dumps({"status": status.to_wire()})
        self.must("-n", NAMESPACE, "patch", "tenant", name, "--subresource=status", "--type=merge", f"--patch={body}")

    def tenant(self, name: str) -> Tenant:
        return Tenant.model_validate_json(self.must("-n", NAMESPACE, "get", "tenant", name, "-o", "json"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with DevCluster(tmp_path_factory.mktemp("crds")) as environment:
        api = ApiServer(environment)
        api.must("apply", "--server-side", "-f", str(ROOT / "crds"))
        api.must("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
        for sample in ("organization", "plans", "failing/plan", "tenants", "failing/tenant"):
            api.must("apply", "--server-side", "-f", str(ROOT / "manifests" / "samples" / f"{sample}.yaml"))
        yield api


def tenant(name: str, **spec: object) -> Object:
    return {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "organization": "cymmetri",
            "plan": "starter",
            "admin": {"email": "admin@cymmetri.example"},
            **spec,
        },
    }


def plan(**spec: object) -> Object:
    workload = {"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}
    return {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Plan",
        "metadata": {"name": "custom"},
        "spec": {"workloads": [workload], **spec},
    }


def organization(name: str = "other", **spec: object) -> Object:
    return {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Organization",
        "metadata": {"name": name},
        "spec": {"namespace": "other", **spec},
    }


PORT = {"name": "http", "containerPort": 8080}
WEB = {"name": "web", "image": "web:1", "ports": [PORT]}
INTERNET = {"ipBlock": {"cidr": "0.0.0.0/0"}}
LABELS = {"matchLabels": {"team": "queues"}}
QUEUES = {"namespaceSelector": LABELS, "podSelector": LABELS}


def outgoing(peer: Object, **port: object) -> Object:
    """An egress rule of a plan."""
    return {"to": [peer], "ports": [{"port": 443, **port}]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (tenant("Banking"), "metadata.name: Invalid value"),
        (tenant("1st"), "spec.slug: Invalid value: slug '1st' (spec.slug, or else metadata.name) must be"),
        (tenant("a.b"), "slug 'a.b' (spec.slug, or else metadata.name) must be lowercase letters"),
        (tenant("dash", slug="dash-"), "slug 'dash-' (spec.slug, or else metadata.name) must be"),
        (
            tenant("long", slug="a" * 55),
            f"host '{'a' * 55}-cymmetri' is longer than 63 characters; set a shorter spec.slug",
        ),
        (tenant("n" * 64, slug="short"), "metadata.name: Too long: may not be more than 63 bytes"),
        (tenant("name", displayName="Retail Banking"), "displayName 'Retail Banking' must start with a lowercase"),
        (tenant("name", displayName="retail--banking"), "displayName 'retail--banking' must start with"),
        (tenant("mail", admin={"email": "nobody"}), "spec.admin.email: Invalid value"),
        (tenant("mail", admin={"email": "a b@c.example"}), "admin email 'a b@c.example' is not an email address"),
        (tenant("mail", admin={}), "spec.admin.email: Required value"),
        (tenant("state", desiredState="Paused"), 'Unsupported value: "Paused": supported values: "Active"'),
        (tenant("region", region="EU 1"), "region 'EU 1' must be lowercase letters, digits and dashes, like eu-1"),
        (plan(workloads=[]), "spec.workloads: Invalid value"),
        (plan(workloads=[{**WEB, "ports": []}]), "workload 'web' takes the traffic"),
        (
            plan(workloads=[WEB, {"name": "job", "image": "job:1", "route": True}]),
            "workload 'job' takes the traffic (route: true, or else the first): it needs a port",
        ),
        (
            plan(workloads=[{**WEB, "route": True}, {**WEB, "name": "web2", "route": True}]),
            "the traffic goes to one workload only: leave route: true on one of them",
        ),
        (plan(workloads=[WEB, WEB]), 'spec.workloads: duplicate entries for key [name="web"]'),
        (plan(timeouts={"wait-redy": "15s"}), "timeouts: unknown activity 'wait-redy'; known are validate-request"),
        (plan(timeouts={"wait-ready": "soon"}), "spec.timeouts.wait-ready: Invalid value"),
        (plan(timeouts={"wait-ready": "0s"}), "timeouts: 'wait-ready' must be longer than zero"),
        (plan(retries={"deploy": {"maxTries": 3}}), "retries: unknown activity 'deploy'; known are"),
        (plan(quota={"pods": "many"}), "spec.quota.pods: Invalid value"),
        (plan(readiness={"url": "ftp://x"}), "readiness url 'ftp://x' must start with http:// or https://"),
        (plan(limits={"tenants": -1}), "spec.limits.tenants: Invalid value: -1"),
        (plan(egress=[{}]), "spec.egress[0].to: Required value"),
        (plan(egress=[{"to": [], "ports": [{"port": 443}]}]), "spec.egress[0].to: Invalid value"),
        (plan(egress=[{"to": [INTERNET]}]), "spec.egress[0].ports: Required value"),
        (plan(egress=[{"to": [INTERNET], "ports": []}]), "spec.egress[0].ports: Invalid value"),
        (plan(egress=[outgoing({})]), "name an ipBlock, or a namespaceSelector, and not both"),
        (plan(egress=[outgoing({**INTERNET, **QUEUES})]), "name an ipBlock, or a namespaceSelector, and not both"),
        (plan(egress=[outgoing({**INTERNET, "podSelector": LABELS})]), "a podSelector needs a namespaceSelector"),
        (plan(egress=[outgoing({"namespaceSelector": {}})]), "namespaceSelector.matchLabels: Required value"),
        (plan(egress=[outgoing({"namespaceSelector": {"matchLabels": {}}})]), "namespaceSelector.matchLabels: Invalid"),
        (
            plan(egress=[outgoing({"ipBlock": {"cidr": "everywhere"}})]),
            "spec.egress[0].to[0].ipBlock.cidr: Invalid value",
        ),
        (plan(egress=[outgoing(INTERNET, port=70000)]), "spec.egress[0].ports[0].port: Invalid value: 70000"),
        (plan(egress=[outgoing(INTERNET, endPort=80)]), "endPort must not be less than port"),
        (plan(egress=[outgoing(INTERNET, protocol="ICMP")]), 'Unsupported value: "ICMP"'),
        (organization("Other"), "metadata.name: Invalid value"),
        (organization(slug="9lives"), "slug '9lives' (spec.slug, or else metadata.name) must be"),
        (
            organization(members=[{"kind": "ServiceAccount", "name": "argocd", "role": "admin"}]),
            "member 'argocd' is a ServiceAccount: it needs a namespace",
        ),
        (
            organization(members=[{"kind": "User", "name": "eve", "namespace": "x", "role": "admin"}]),
            "member 'eve' is a User: it has no namespace, remove it",
        ),
        (organization(plans=["free", "free"]), 'spec.plans: duplicate entries for key [="free"]'),
        (tenant("xn--bcher-kva"), "slug 'xn--bcher-kva' (spec.slug, or else metadata.name) has '--' in its third and"),
        (tenant("other", slug="ab--c"), "slug 'ab--c' (spec.slug, or else metadata.name) has '--' in its third and"),
        (organization("xn--other"), "slug 'xn--other' (spec.slug, or else metadata.name) has '--' in its third and"),
        (organization(namespace="kube-system"), "namespace 'kube-system' is one of the cluster's own (kube-*); give"),
        (
            organization(namespace="tenant-portal-acme"),
            "namespace 'tenant-portal-acme' is, or could become, a tenant's own (tenant-*); give",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value["kind"],
)
def test_a_bad_object_is_refused(server: ApiServer, bad: Object, message: str) -> None:
    result = server.apply(bad)

    assert result.returncode != 0
    assert message in result.stderr


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            tenant("moving"),
            tenant("moving", organization="acme"),
            "organization is immutable: it is 'cymmetri' and cannot become 'acme'",
        ),
        (
            tenant("renamed"),
            tenant("renamed", slug="other"),
            "slug is immutable: it is 'renamed' and cannot become 'other'; create a new Tenant",
        ),
        (
            organization("fixed"),
            organization("fixed", slug="other"),
            "slug is immutable: it is 'fixed' and cannot become 'other'; create a new Organization",
        ),
    ],
    ids=["organization", "tenant-slug", "organization-slug"],
)
def test_what_is_immutable_stays(server: ApiServer, before: Object, after: Object, message: str) -> None:
    server.must("apply", "--server-side", "-f", "-", stdin=before)

    result = server.apply(after)

    assert result.returncode != 0
    assert message in result.stderr


def _before(rule: str, schema: Any) -> Any:
    """The schema without the rules that have `rule` in them."""
    if isinstance(schema, list):
        return [_before(rule, each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: [each for each in value if rule not in each["rule"]]
        if key == "x-kubernetes-validations"
        else _before(rule, value)
        for key, value in schema.items()
    }


@pytest.mark.parametrize(
    ("rule", "old"),
    [
        ("^..--", tenant("xn--old")),
        ("^..--", organization("xn--old")),
        ("kube-", organization("old", namespace="kube-system")),
    ],
    ids=["tenant-slug", "organization-slug", "organization-namespace"],
)
def test_what_was_there_before_a_rule_can_still_be_told_of_and_let_go(
    server: ApiServer, rule: str, old: Object
) -> None:
    plural = f"{old['kind'].lower()}s"
    crd = yaml.safe_load((ROOT / "crds" / f"intelliauth.io_{plural}.yaml").read_text())
    where, name = ("-n", NAMESPACE), old["metadata"]["name"]
    old = {**old, "metadata": {**old["metadata"], "finalizers": ["tests.example/kept"]}}
    server.must("replace", "-f", "-", stdin={**crd, "spec": _before(rule, crd["spec"])})
    for _ in range(100):  # the API server serves a changed schema in its own time
        if (created := server.kubectl("create", "-f", "-", stdin=old)).returncode == 0:
            break
    assert created.returncode == 0, created.stderr
    server.must("replace", "-f", "-", stdin=crd)
    other = {**old, "metadata": {**old["metadata"], "name": "xn--other"}}
    for _ in range(100):
        if (refused := server.kubectl("create", "--dry-run=server", "-f", "-", stdin=other)).returncode != 0:
            break
    assert refused.returncode != 0

    status = json.dumps({"status": {"observedGeneration": 1}})
    server.must(*where, "patch", plural, name, "--subresource=status", "--type=merge", f"--patch={status}")
    released = json.dumps({"metadata": {"finalizers": []}})
    server.must(*where, "delete", plural, name, "--wait=false")
    server.must(*where, "patch", plural, name, "--type=merge", f"--patch={released}")
    assert "not found" in server.kubectl(*where, "get", plural, name).stderr.lower()


def test_whom_tenants_may_reach_is_asked_for_as_in_a_network_policy(server: ApiServer) -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
    rules = [outgoing(INTERNET), outgoing(block, endPort=8443), outgoing(QUEUES, protocol="UDP")]

    server.must("apply", "--server-side", "-f", "-", stdin=plan(egress=rules))

    stored = json.loads(server.must("get", "plan", "custom", "-o", "json"))["spec"]["egress"]
    assert [rule["to"] for rule in stored] == [rule["to"] for rule in rules]
    assert [rule["ports"][0]["protocol"] for rule in stored] == ["TCP", "TCP", "UDP"]


def test_a_slug_equal_to_the_name_may_be_spelled_out_later(server: ApiServer) -> None:
    server.must("apply", "--server-side", "-f", "-", stdin=tenant("spelled"))
    server.must("apply", "--server-side", "-f", "-", stdin=tenant("spelled", slug="spelled"))

    assert server.tenant("spelled").spec.slug == "spelled"


def test_the_plan_changes_any_time_and_the_region_only_while_nothing_is_held(server: ApiServer) -> None:
    server.must("apply", "--server-side", "-f", "-", stdin=tenant("sized", region="eu-1"))
    created = server.tenant("sized").metadata.creation_timestamp
    assert created is not None
    row = Allocation(
        kind="Namespace",
        name="sized-cymmetri",
        activity="allocate-namespace",
        state=AllocationState.ALLOCATED,
        since=created,
        reserved_at=created,
    )

    server.write_status("sized", TenantStatus(state=TenantState.ACTIVE, allocations=(row,)))
    server.must("apply", "--server-side", "-f", "-", stdin=tenant("sized", region="eu-1", plan="pro"))
    refused = server.apply(tenant("sized", region="eu-2", plan="pro"))
    assert refused.returncode != 0
    assert "region cannot change from 'eu-1' to 'eu-2' while resources are held" in refused.stderr
    assert "set desiredState: Decommissioned" in refused.stderr

    server.write_status("sized", TenantStatus(state=TenantState.DECOMMISSIONED))
    server.must("apply", "--server-side", "-f", "-", stdin=tenant("sized", region="eu-2", plan="pro"))
    assert server.tenant("sized").spec.region == "eu-2"


def test_the_api_server_applies_the_defaults(server: ApiServer) -> None:
    server.must("apply", "--server-side", "-f", "-", stdin=plan(quota={"pods": 10}))

    stored = json.loads(server.must("get", "plan", "custom", "-o", "json"))

    assert stored["spec"]["storage"] == {"connectionLimit": 20}
    assert stored["spec"]["workloads"][0]["replicas"] == 1
    assert Plan.model_validate(stored).spec.quota == {"pods": "10"}
    assert server.tenant("banking").spec.desired_state == "Active"


def test_a_null_is_as_good_as_absent(server: ApiServer) -> None:
    server.must("create", "-f", "-", stdin=tenant("nulls", region=None, displayName=None))

    assert server.tenant("nulls").spec.region is None


def test_the_status_is_stored_as_it_was_written(server: ApiServer) -> None:
    server.must("apply", "--server-side", "-f", "-", stdin=tenant("journal"))
    now = server.tenant("journal").metadata.creation_timestamp
    assert now is not None
    update = ConditionUpdate(
        ConditionType.READY, ConditionStatus.FALSE, Reason.PROVISIONING, "ü" * (MESSAGE_MAX_LENGTH + 1)
    )
    written = TenantStatus(
        state=TenantState.PROVISIONING,
        attempt=1,
        conditions=set_condition((), update, generation=1, now=now),
        outbox=(
            OutboxEvent(
                id="01JDZZZZZZZZZZZZZZZZZZZZZZ",
                type="tenant.provisioning.started",
                org_id="cymmetri",
                tenant_id="01JDYYYYYYYYYYYYYYYYYYYYYY",
                created_at=now.replace(microsecond=123456),
                data={"attempt_number": 1, "requested_by": "owner", "nested": [{"any": {"thing": True}}]},
            ),
        ),
    )

    server.write_status("journal", written)

    assert server.tenant("journal").status == written


def test_the_columns_tell_the_state(server: ApiServer) -> None:
    narrow = server.must("-n", NAMESPACE, "get", "tn", "banking").splitlines()[0].split()
    wide = server.must("-n", NAMESPACE, "get", "tn", "banking", "-o", "wide").splitlines()[0].split()

    assert narrow == ["NAME", "STATE", "PHASE", "ATTEMPT", "PLAN", "URL", "READY", "AGE"]
    assert wide == [*narrow, "WORKER", "MESSAGE"]
    assert "organization.intelliauth.io/cymmetri" in server.must("get", "intelliauth", "-o", "name")
    assert "cymmetri" in server.must("get", "org")
