"""What is found of other hands on an object, and that nothing of them is left after a correction."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import yaml

from devcluster.platform import SAMPLES
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.resources import object_path, ref_of
from tenant_operator.api.plan import Plan
from tenant_operator.ports import Cluster, Difference, Endpoint, Manifest
from tenant_operator.provisioning.contents import Contents, contents
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import apply_all
from tenant_operator.provisioning.options import Options
from tests.contract.test_cluster import cluster  # noqa: F401 (a fixture)
from tests.fakes.cluster import FakeCluster

PLANS = [Plan.model_validate(each) for each in yaml.safe_load_all((SAMPLES / "plans.yaml").read_text(encoding="utf-8"))]
(STARTER,) = (plan for plan in PLANS if plan.metadata.name == "starter")
OPTIONS = Options(ingress_class="nginx", tls_secret="wildcard")


@pytest.fixture
async def whole(cluster: Cluster) -> AsyncIterator[Contents]:  # noqa: F811
    """All that a sample plan makes of a tenant, applied."""
    names = Names(f"compared-{uuid4().hex[:8]}", "contract", "contract", str(uuid4()), "tenants.example")
    made = contents(names, STARTER, OPTIONS, Endpoint("192.0.2.10", 5432))
    namespace, *others = made.all()
    await cluster.apply(namespace)
    await apply_all(cluster, others)
    yield made
    await cluster.delete(ref_of(namespace))


def one(made: Contents, kind: str, name: str) -> Manifest:
    return next(each for each in made.all() if each["kind"] == kind and name in (each["metadata"]["name"], ""))


async def edit(cluster: Cluster, manifest: Manifest, patch: Manifest, subresource: str = "") -> None:  # noqa: F811
    """Somebody else changes the object."""
    if isinstance(cluster, FakeCluster):
        cluster.edit(ref_of(manifest), patch)
        return
    assert isinstance(cluster, KubernetesCluster)
    await cluster._client.request(
        "PATCH",
        object_path(ref_of(manifest)) + subresource,
        subject="an edit",
        query={"fieldManager": "kubectl-edit"},
        body=patch,
        content_type="application/strategic-merge-patch+json",
    )


async def test_nothing_differs_of_what_was_applied(cluster: Cluster, whole: Contents) -> None:  # noqa: F811
    found = {str(ref_of(each)): await cluster.compare(each) for each in whole.all()}

    assert [each for each, differences in found.items() if differences] == []


async def test_what_is_gone_is_made_again(cluster: Cluster, whole: Contents) -> None:  # noqa: F811
    service = one(whole, "Service", "auth")
    await cluster.delete(ref_of(service))

    assert await cluster.compare(service) == [Difference("")]
    await cluster.correct(service)
    assert await cluster.compare(service) == []


CONTAINER = "spec.template.spec.containers[name=auth]"
EDITS: list[tuple[str, str, Manifest, str]] = [
    ("NetworkPolicy", "default-deny", {"spec": {"ingress": [{}]}}, "spec.ingress"),
    ("NetworkPolicy", "default-deny", {"spec": {"policyTypes": ["Egress"]}}, "spec.policyTypes"),
    ("Deployment", "auth", {"spec": {"paused": True}}, "spec.paused"),
    ("Deployment", "auth", {"spec": {"replicas": 5}}, "spec.replicas"),
    (
        "Deployment",
        "auth",
        {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}},
        "spec.template.spec.nodeSelector",
    ),
    ("Service", "auth", {"spec": {"externalIPs": ["192.0.2.1"]}}, "spec.externalIPs"),
    ("Ingress", "tenant", {"spec": {"ingressClassName": "evil"}}, "spec.ingressClassName"),
    (
        "Ingress",
        "tenant",
        {"spec": {"defaultBackend": {"service": {"name": "evil", "port": {"number": 80}}}}},
        "spec.defaultBackend",
    ),
    ("ResourceQuota", "tenant-quota", {"spec": {"hard": {"pods": "1000"}}}, "spec.hard.pods"),
    ("ResourceQuota", "tenant-quota", {"spec": {"hard": {"pods": None}}}, "spec.hard.pods"),
    ("PodDisruptionBudget", "auth", {"spec": {"maxUnavailable": 2}}, "spec.maxUnavailable"),
    ("Namespace", "", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}, ""),
    ("Deployment", "auth", {"metadata": {"labels": {"app.kubernetes.io/managed-by": "nobody"}}}, ""),
    ("Deployment", "auth", {"metadata": {"labels": {"intelliauth.io/tenant-uid": None}}}, ""),
]


@pytest.mark.parametrize(("kind", "name", "patch", "field"), EDITS, ids=[f"{each[0]} {each[2]}" for each in EDITS])
async def test_what_others_do_is_found_and_nothing_of_it_is_left(
    cluster: Cluster,  # noqa: F811
    whole: Contents,
    kind: str,
    name: str,
    patch: Manifest,
    field: str,
) -> None:
    manifest = one(whole, kind, name)
    before = without_versions(await cluster.get(ref_of(manifest)))
    await edit(cluster, manifest, patch)

    found = await cluster.compare(manifest)
    assert [each for each in found if each.field.startswith(field)]
    assert {each.manager for each in found} <= {"kubectl-edit", ""}
    await cluster.correct(manifest)
    assert await cluster.compare(manifest) == []
    assert without_versions(await cluster.get(ref_of(manifest))) == before


def without_versions(found: Manifest | None) -> dict[str, Any]:
    assert found is not None
    told = ("resourceVersion", "generation", "managedFields", "annotations")
    metadata = {name: value for name, value in found["metadata"].items() if name not in told}
    return {**{name: value for name, value in found.items() if name != "status"}, "metadata": metadata}


SIDECAR = {"name": "sidecar", "image": "example/sidecar:1"}


@pytest.mark.parametrize(
    ("container", "field"),
    [
        (SIDECAR, "spec.template.spec.containers[name=sidecar]"),
        ({"name": "auth", "image": "example/evil:1"}, f"{CONTAINER}.image"),
        ({"name": "auth", "command": ["sh"]}, f"{CONTAINER}.command"),
        (
            {"name": "auth", "env": [{"name": "LD_PRELOAD", "value": "evil.so"}]},
            f"{CONTAINER}.env[name=LD_PRELOAD]",
        ),
        (
            {"name": "auth", "env": [{"name": "TENANT_HOST", "value": "evil.example"}]},
            f"{CONTAINER}.env[name=TENANT_HOST]",
        ),
        ({"name": "auth", "env": [{"name": "TENANT_HOST", "$patch": "delete"}]}, f"{CONTAINER}.env[name=TENANT_HOST]"),
    ],
    ids=["a sidecar", "another image", "a command", "a variable", "another value", "a variable less"],
)
async def test_what_others_do_to_containers_is_found_and_nothing_of_it_is_left(
    cluster: Cluster,  # noqa: F811
    whole: Contents,
    container: Manifest,
    field: str,
) -> None:
    if isinstance(cluster, FakeCluster):
        pytest.skip("the fake's edits know nothing of items in lists")
    manifest = one(whole, "Deployment", "auth")
    before = without_versions(await cluster.get(ref_of(manifest)))
    await edit(cluster, manifest, {"spec": {"template": {"spec": {"containers": [container]}}}})

    found = await cluster.compare(manifest)
    assert [each for each in found if each.field.startswith(field)]
    await cluster.correct(manifest)
    assert await cluster.compare(manifest) == []
    assert without_versions(await cluster.get(ref_of(manifest))) == before


async def test_scaling_is_found_and_undone(cluster: Cluster, whole: Contents) -> None:  # noqa: F811
    manifest = one(whole, "Deployment", "auth")
    await edit(cluster, manifest, {"spec": {"replicas": 7}}, "/scale" if isinstance(cluster, KubernetesCluster) else "")

    assert [each.field for each in await cluster.compare(manifest)] == ["spec.replicas"]
    await cluster.correct(manifest)
    found = await cluster.get(ref_of(manifest))
    assert found is not None
    assert found["spec"]["replicas"] == manifest["spec"]["replicas"]


async def test_what_is_left_to_others_is_no_difference_and_stays(cluster: Cluster, whole: Contents) -> None:  # noqa: F811
    """Notes in the metadata, a restart by kubectl, and replicas that the manifest does not name."""
    manifest = one(whole, "Deployment", "auth")
    manifest = {**manifest, "spec": {name: value for name, value in manifest["spec"].items() if name != "replicas"}}
    await cluster.apply(manifest)
    await edit(cluster, manifest, {"spec": {"replicas": 3}}, "/scale" if isinstance(cluster, KubernetesCluster) else "")
    await edit(cluster, manifest, {"metadata": {"annotations": {"somebody.example/note": "mine"}}})
    if isinstance(cluster, KubernetesCluster):
        restarted = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
        await edit(cluster, manifest, {"spec": {"template": {"metadata": {"annotations": restarted}}}})

    assert await cluster.compare(manifest) == []
    await edit(cluster, manifest, {"spec": {"paused": True}})
    await cluster.correct(manifest)
    found = await cluster.get(ref_of(manifest))
    assert found is not None
    assert found["spec"]["replicas"] == 3
    assert not found["spec"].get("paused")
    assert found["metadata"]["annotations"]["somebody.example/note"] == "mine"
    if isinstance(cluster, KubernetesCluster):
        assert found["spec"]["template"]["metadata"]["annotations"] == restarted


async def test_an_object_whose_managers_were_wiped_is_put_right(cluster: Cluster, whole: Contents) -> None:  # noqa: F811
    if isinstance(cluster, FakeCluster):
        pytest.skip("the fake knows no managers")
    manifest = one(whole, "NetworkPolicy", "default-deny")
    await edit(cluster, manifest, {"metadata": {"managedFields": [{}]}, "spec": {"ingress": [{}]}})
    for _ in range(2):  # the first apply finds out what there was before
        await cluster.correct(manifest)

    assert await cluster.compare(manifest) == []
    found = await cluster.get(ref_of(manifest))
    assert found is not None
    assert "ingress" not in found["spec"]
