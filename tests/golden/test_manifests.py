"""What the sample plans become in a cluster: the files in `manifests/` beside this one, for people to review.

`python -m tests.golden.test_manifests` (with `operator` on PYTHONPATH) writes them anew.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tenant_operator.api.egress import EgressPeer, EgressPort, EgressRule, IpBlock
from tenant_operator.api.plan import Plan, Readiness
from tenant_operator.ports import Endpoint, Manifest
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options, RouteKind

GOLDEN = Path(__file__).parent / "manifests"
SAMPLES = Path(__file__).parents[2] / "manifests" / "samples" / "plans.yaml"
NAMES = Names("banking", "cymmetri", "cymmetri", "0b5c1f6e-3c5e-4a53-9d3c-6f0f2c7a9a10", "tenants.example")
PLANS = [Plan.model_validate(each) for each in yaml.safe_load_all(SAMPLES.read_text(encoding="utf-8"))]
DATABASE = Endpoint("postgres.databases.svc.cluster.local", 5432)
MANAGED_DATABASE = Endpoint("db.cloud.example", 5432)
OUTSIDE = Options(
    egress_database=(
        EgressRule(to=(EgressPeer(ip_block=IpBlock(cidr="10.20.0.0/24")),), ports=(EgressPort(port=5432),)),
    )
)
"""The database has a name outside of the cluster, which says nothing of its addresses."""
ROUTES = {
    "route-ingress": Options(ingress_class="nginx", tls_secret="tenants-tls"),
    "route-ingress-plain": Options(),
    "route-httproute": Options(route_kind=RouteKind.HTTP_ROUTE),
}


def rendered() -> dict[str, list[Manifest]]:
    """The objects by the file they are kept in."""
    readiness = Readiness(url="http://auth.{{ namespace }}.svc:8080/healthz")
    probed = PLANS[0].model_copy(update={"spec": PLANS[0].spec.model_copy(update={"readiness": readiness})})
    files = {
        "network-policies.yaml": manifests.network_policies(NAMES, Options(), PLANS[0], database=DATABASE),
        "network-policies-probed.yaml": manifests.network_policies(NAMES, Options(), probed, database=DATABASE),
        "network-policies-egress.yaml": manifests.network_policies(
            NAMES, OUTSIDE, PLANS[-1], database=MANAGED_DATABASE
        ),
    }
    for plan in PLANS:
        files[f"{plan.metadata.name}/namespace.yaml"] = manifests.namespace(NAMES, plan)
        files[f"{plan.metadata.name}/workloads.yaml"] = manifests.workloads(NAMES, plan)
    for name, options in ROUTES.items():
        files[f"{name}-open.yaml"] = route.manifests(NAMES, options, PLANS[0], is_open=True)
        files[f"{name}-closed.yaml"] = route.manifests(NAMES, options, None, is_open=False)
    return files


def text_of(objects: list[Manifest]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False, width=120)


RENDERED = rendered()
OBJECTS = [(f"{name}: {each['kind']} {each['metadata']['name']}", each) for name in RENDERED for each in RENDERED[name]]
PODS = [(name, each["spec"]["template"]["spec"]) for name, each in OBJECTS if each["kind"] == "Deployment"]


def test_the_folder_holds_exactly_what_is_rendered() -> None:
    assert {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*.yaml")} == set(RENDERED)


@pytest.mark.parametrize("name", RENDERED)
def test_the_file_is_what_is_rendered(name: str) -> None:
    assert (GOLDEN / name).read_text(encoding="utf-8") == text_of(RENDERED[name]), "see the top of this file"


@pytest.mark.parametrize(("name", "manifest"), OBJECTS, ids=[name for name, _ in OBJECTS])
def test_every_object_is_the_tenants_and_in_its_place(name: str, manifest: Manifest) -> None:
    metadata = manifest["metadata"]

    assert NAMES.labels().items() <= metadata["labels"].items()
    expected = {"Namespace": None, "ReferenceGrant": Options().responder_namespace}
    assert metadata.get("namespace") == expected.get(manifest["kind"], NAMES.namespace)


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_every_pod_meets_the_restricted_pod_security_standard(name: str, pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for volume in pod["volumes"]:
        assert volume.keys() == {"name", "emptyDir"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["privileged"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("name", ROUTES)
def test_opening_changes_one_object(name: str) -> None:
    opened, closed = RENDERED[f"{name}-open.yaml"], RENDERED[f"{name}-closed.yaml"]

    assert opened[0] != closed[0]
    assert opened[0]["metadata"] == closed[0]["metadata"]
    assert opened[1:] == closed[1:]


def test_every_selector_finds_the_pods_of_its_workload() -> None:
    for plan in PLANS:
        objects = RENDERED[f"{plan.metadata.name}/workloads.yaml"]
        pods = {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
            for each in objects
            if each["kind"] == "Deployment"
        }
        assert set(pods) == {workload.name for workload in plan.spec.workloads}
        for manifest in objects:
            selector = manifest["spec"]["selector"]
            wanted = selector if manifest["kind"] == "Service" else selector["matchLabels"]
            found = {name for name, labels in pods.items() if wanted.items() <= labels.items()}
            assert found == {manifest["metadata"]["name"]}


if __name__ == "__main__":
    for name, objects in RENDERED.items():
        path = GOLDEN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(objects), encoding="utf-8")
