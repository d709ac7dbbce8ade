"""What a tenant may rely on when it creates, applies, reads and deletes objects."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from devcluster import Environment
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.ports import Cluster, Manifest, ObjectRef
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.contract.waiting import until
from tests.fakes.cluster import FakeCluster, stuck


@pytest.fixture(params=["fake", "kubernetes"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    if request.param == "fake":
        yield FakeCluster(SystemClock())
        return
    environment: Environment = request.getfixturevalue("devcluster")
    async with await KubernetesClient.connect(Connection(environment.kubeconfig)) as client:
        yield KubernetesCluster(client)


@pytest.fixture
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    name = f"contract-{uuid4().hex[:8]}"
    await cluster.create(namespace_manifest(name))
    yield name
    await cluster.delete(ObjectRef("v1", "Namespace", name))


def namespace_manifest(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def config(namespace: str, name: str = "settings", **fields: Any) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": fields.pop("labels", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": fields}


def ref(namespace: str, name: str = "settings") -> ObjectRef:
    return ObjectRef("v1", "ConfigMap", name, namespace)


async def stored(cluster: Cluster, wanted: ObjectRef) -> Manifest:
    found = await cluster.get(wanted)
    assert found is not None
    return found


async def test_create_returns_the_object_as_stored(cluster: Cluster, namespace: str) -> None:
    created = await cluster.create(config(namespace, colour="blue"))

    assert created["data"] == {"colour": "blue"}
    assert created["metadata"]["uid"]
    assert created == await cluster.get(ref(namespace))


async def test_create_returns_the_holder_of_a_taken_name_and_changes_nothing(cluster: Cluster, namespace: str) -> None:
    first = await cluster.create(config(namespace, labels={"owner": "first"}))

    second = await cluster.create(config(namespace, labels={"owner": "second"}))

    assert second == first
    assert second["metadata"]["labels"] == {"owner": "first"}


async def test_of_two_creators_exactly_one_wins(cluster: Cluster) -> None:
    name = f"contract-race-{uuid4().hex[:8]}"
    contenders = ["first", "second", "third", "fourth"]
    manifests = [namespace_manifest(name) for _ in contenders]
    for manifest, owner in zip(manifests, contenders, strict=True):
        manifest["metadata"]["labels"] = {"owner": owner}

    answers = await asyncio.gather(*(cluster.create(manifest) for manifest in manifests))

    assert len({answer["metadata"]["uid"] for answer in answers}) == 1
    assert len({answer["metadata"]["labels"]["owner"] for answer in answers}) == 1
    await cluster.delete(ObjectRef("v1", "Namespace", name))


async def test_applying_the_same_again_changes_nothing(cluster: Cluster, namespace: str) -> None:
    await cluster.apply(config(namespace, colour="blue"))
    before = await stored(cluster, ref(namespace))

    await cluster.apply(config(namespace, colour="blue"))

    assert await cluster.get(ref(namespace)) == before


async def test_apply_takes_over_the_fields_of_others_and_drops_what_it_no_longer_names(
    cluster: Cluster, namespace: str
) -> None:
    created = await cluster.create(config(namespace, colour="blue"))

    await cluster.apply(config(namespace, colour="red", size="big"))
    assert (await stored(cluster, ref(namespace)))["data"] == {"colour": "red", "size": "big"}

    await cluster.apply(config(namespace, colour="red"))
    now = await stored(cluster, ref(namespace))
    assert now["data"] == {"colour": "red"}
    assert now["metadata"]["uid"] == created["metadata"]["uid"]


async def test_apply_drops_an_annotation_that_it_has_set_and_keeps_one_that_was_created(cluster: Cluster) -> None:
    name = f"contract-{uuid4().hex[:8]}"

    def marked(**annotations: str) -> Manifest:
        marks = {f"tests.example/{each}": value for each, value in annotations.items()}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": marks}}

    async def marks() -> dict[str, str]:
        found = (await stored(cluster, ObjectRef("v1", "Namespace", name)))["metadata"].get("annotations") or {}
        return {each.partition("/")[2]: value for each, value in found.items() if each.startswith("tests.example/")}

    await cluster.create(marked(record="a", attempt="1"))
    await cluster.apply(marked(record="a", attempt="1", served="true"))
    assert await marks() == {"record": "a", "attempt": "1", "served": "true"}
    await cluster.apply(marked(attempt="2"))
    assert await marks() == {"record": "a", "attempt": "2"}
    await cluster.delete(ObjectRef("v1", "Namespace", name))


async def test_what_is_not_there_is_none(cluster: Cluster, namespace: str) -> None:
    assert await cluster.get(ref(namespace, "absent")) is None
    assert await cluster.get(ref("contract-absent", "absent")) is None


async def test_list_finds_what_carries_all_labels(cluster: Cluster, namespace: str) -> None:
    await cluster.apply(config(namespace, "one", labels={"tenant": "a", "tier": "x"}))
    await cluster.apply(config(namespace, "two", labels={"tenant": "a"}))
    await cluster.apply(config(namespace, "three", labels={"tenant": "b", "tier": "x"}))

    async def names(labels: dict[str, str]) -> list[str]:
        found = await cluster.list("v1", "ConfigMap", namespace, labels)
        assert all((each["apiVersion"], each["kind"]) == ("v1", "ConfigMap") for each in found)
        return sorted(each["metadata"]["name"] for each in found)

    assert await names({"tenant": "a"}) == ["one", "two"]
    assert await names({"tenant": "a", "tier": "x"}) == ["one"]
    assert await names({"tenant": "c"}) == []


async def test_list_in_a_missing_namespace_is_empty(cluster: Cluster) -> None:
    assert await cluster.list("v1", "ConfigMap", "contract-absent", {}) == []


async def test_deleting_what_is_absent_is_success(cluster: Cluster, namespace: str) -> None:
    assert await cluster.delete(ref(namespace, "absent"))
    assert await cluster.delete(ref("contract-absent", "absent"))
    assert await cluster.delete(ObjectRef("v1", "Namespace", "contract-absent"))


@pytest.mark.parametrize("kind", ["ConfigMap", "Service", "ServiceAccount"])
async def test_a_deleted_object_is_gone(cluster: Cluster, namespace: str, kind: str) -> None:
    manifest: Manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "short", "namespace": namespace}}
    if kind == "Service":
        manifest["spec"] = {"ports": [{"port": 80}]}
    await cluster.apply(manifest)

    assert await cluster.delete(ObjectRef("v1", kind, "short", namespace))
    assert await cluster.get(ObjectRef("v1", kind, "short", namespace)) is None


async def test_a_namespace_takes_its_time_to_go_and_takes_everything_with_it(cluster: Cluster, namespace: str) -> None:
    wanted = ObjectRef("v1", "Namespace", namespace)
    await cluster.apply(config(namespace, colour="blue"))

    assert not await cluster.delete(wanted)
    await until(lambda: cluster.delete(wanted), seconds=120)

    assert await cluster.get(wanted) is None
    assert await cluster.get(ref(namespace)) is None


async def test_writing_into_a_namespace_on_its_way_out_can_heal(cluster: Cluster, namespace: str) -> None:
    await cluster.delete(ObjectRef("v1", "Namespace", namespace))

    with pytest.raises(Unavailable, match=f"ConfigMap {namespace}/settings: .*being terminated"):
        await cluster.apply(config(namespace))
    with pytest.raises(Unavailable, match="being terminated"):
        await cluster.create(config(namespace))


async def test_writing_into_a_missing_namespace_is_rejected(cluster: Cluster) -> None:
    with pytest.raises(Rejected, match='ConfigMap contract-absent/settings: namespaces "contract-absent" not found'):
        await cluster.apply(config("contract-absent"))
    with pytest.raises(Rejected, match='namespaces "contract-absent" not found'):
        await cluster.create(config("contract-absent"))


async def enforce(cluster: Cluster, namespace: str, hard: dict[str, str]) -> None:
    """Put the quota `plan` in force."""
    metadata = {"name": "plan", "namespace": namespace}
    await cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}})

    async def in_force() -> bool:
        quota = await stored(cluster, ObjectRef("v1", "ResourceQuota", "plan", namespace))
        return bool(quota.get("status", {}).get("hard") == hard)

    await until(in_force)


async def test_an_exceeded_quota_rejects_with_its_name_and_numbers(cluster: Cluster, namespace: str) -> None:
    await enforce(cluster, namespace, {"secrets": "1"})

    async def accepted() -> bool:
        try:
            await cluster.apply(secret(namespace, "one"))
        except Unavailable:  # admission hears of the quota's status by a watch of its own
            return False
        return True

    await until(accepted)
    with pytest.raises(Rejected, match=r"Secret .*/two: .*exceeded quota: plan, .*used: secrets=1, limited: secrets=1"):
        await cluster.apply(secret(namespace, "two"))
    await cluster.apply(secret(namespace, "one"))


def secret(namespace: str, name: str, **texts: Any) -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": texts}


@pytest.mark.parametrize("operation", ["apply", "create"])
async def test_an_invalid_object_is_rejected_naming_the_field(cluster: Cluster, namespace: str, operation: str) -> None:
    metadata = {"name": "web", "namespace": namespace}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 99999}]}}

    with pytest.raises(Rejected, match=rf"Service {namespace}/web: .*spec\.ports\[0\]\.port: Invalid value: 99999"):
        await getattr(cluster, operation)(service)


async def test_a_value_of_the_wrong_type_is_rejected_naming_the_field(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(Rejected, match=r"data\.size: expected string"):
        await cluster.apply(config(namespace, size=5))


async def test_a_bad_name_is_rejected(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(Rejected, match=r"metadata\.name: Invalid value"):
        await cluster.apply(config(namespace, "Not_A_Name"))


async def test_kinds_that_no_tenant_is_made_of_are_rejected(cluster: Cluster) -> None:
    with pytest.raises(Rejected, match=r"ClusterRole of rbac\.authorization\.k8s\.io/v1 is not a kind"):
        await cluster.get(ObjectRef("rbac.authorization.k8s.io/v1", "ClusterRole", "admin"))
    with pytest.raises(Rejected, match="kind is missing"):
        await cluster.apply({"apiVersion": "v1", "metadata": {"name": "x", "namespace": "default"}})


def deployment(namespace: str, behaviour: str = "good", **container: Any) -> Manifest:
    """A Deployment of one pod; in the development cluster it behaves as told."""
    template = {
        "metadata": {"labels": {"app": "web"}, "annotations": {"devcluster/behaviour": behaviour}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1", **container}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
    }


async def status_of(cluster: Cluster, namespace: str) -> dict[str, Any]:
    manifest = await stored(cluster, ObjectRef("apps/v1", "Deployment", "web", namespace))
    return dict(manifest.get("status", {}))


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each.get("reason", "")) for each in status.get("conditions", [])}


async def test_a_workload_rolls_out_and_its_pods_carry_the_labels_of_the_template(
    cluster: Cluster, namespace: str
) -> None:
    await cluster.apply(deployment(namespace))

    async def available() -> bool:
        return (await status_of(cluster, namespace)).get("availableReplicas") == 1

    await until(available)
    status = await status_of(cluster, namespace)
    assert status["observedGeneration"] == 1
    assert status["updatedReplicas"] == 1
    assert "unavailableReplicas" not in status
    assert conditions(status)["Available"] == ("True", "MinimumReplicasAvailable")
    (pod,) = await cluster.list("v1", "Pod", namespace, {"app": "web"})
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert [each["ready"] for each in pod["status"]["containerStatuses"]] == [True]
    assert conditions(pod["status"])["Ready"][0] == "True"


@pytest.mark.parametrize(
    ("behaviour", "reason", "phase"),
    [("crash-loop", "CrashLoopBackOff", "Running"), ("image-pull", "ImagePullBackOff", "Pending")],
)
async def test_a_container_that_cannot_run_says_why(
    cluster: Cluster, namespace: str, behaviour: str, reason: str, phase: str
) -> None:
    if isinstance(cluster, FakeCluster):
        cluster.rollout = stuck(reason)
    await cluster.apply(deployment(namespace, behaviour))

    async def waiting() -> bool:
        pods = await cluster.list("v1", "Pod", namespace, {"app": "web"})
        return any(
            status["state"].get("waiting", {}).get("reason") == reason
            for pod in pods
            for status in pod["status"].get("containerStatuses", [])
        )

    await until(waiting)
    (pod,) = await cluster.list("v1", "Pod", namespace, {"app": "web"})
    assert pod["status"]["phase"] == phase
    assert conditions(pod["status"])["Ready"] == ("False", "ContainersNotReady")
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    await until(lambda: unavailable(cluster, namespace))


async def test_a_pod_without_a_node_says_why(cluster: Cluster, namespace: str) -> None:
    if isinstance(cluster, FakeCluster):
        cluster.rollout = stuck("Unschedulable", "0/2 nodes are available: 2 Insufficient cpu.")
    await cluster.apply(deployment(namespace, resources={"requests": {"cpu": "1000000"}}))

    async def refused() -> bool:
        pods = await cluster.list("v1", "Pod", namespace, {"app": "web"})
        return any(conditions(pod["status"]).get("PodScheduled") == ("False", "Unschedulable") for pod in pods)

    await until(refused)
    (pod,) = await cluster.list("v1", "Pod", namespace, {"app": "web"})
    assert not pod["status"].get("containerStatuses")
    await until(lambda: unavailable(cluster, namespace))


async def test_a_workload_whose_pods_a_quota_forbids_says_why(cluster: Cluster, namespace: str) -> None:
    if isinstance(cluster, FakeCluster):
        cluster.rollout = stuck("FailedCreate", 'pods "web" is forbidden: exceeded quota: plan')
    await enforce(cluster, namespace, {"pods": "0", "secrets": "0"})
    await until(lambda: refuses_a_secret(cluster, namespace))
    await cluster.apply(deployment(namespace))

    async def refused() -> bool:
        return conditions(await status_of(cluster, namespace)).get("ReplicaFailure") == ("True", "FailedCreate")

    await until(refused)
    status = await status_of(cluster, namespace)
    assert any("exceeded quota: plan" in each["message"] for each in status["conditions"])
    assert await cluster.list("v1", "Pod", namespace, {"app": "web"}) == []


async def refuses_a_secret(cluster: Cluster, namespace: str) -> bool:
    """Whether admission has heard of the quota's status, which takes a watch of its own: before, it refuses with other
    words, and a ReplicaSet keeps the first ones that it is told."""
    with pytest.raises((Unavailable, Rejected)) as refusal:
        await cluster.create(secret(namespace, "one"))
    return "exceeded quota" in refusal.value.message


async def unavailable(cluster: Cluster, namespace: str) -> bool:
    status = await status_of(cluster, namespace)
    available = conditions(status).get("Available")
    return available == ("False", "MinimumReplicasUnavailable") and status.get("unavailableReplicas") == 1


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("v1", "LimitRange"),
        ("apps/v1", "StatefulSet"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("batch/v1", "CronJob"),
        ("batch/v1", "Job"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ("networking.k8s.io/v1", "Ingress"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("policy/v1", "PodDisruptionBudget"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ],
)
async def test_the_kinds_of_workload_templates_are_served(
    cluster: Cluster, namespace: str, api_version: str, kind: str
) -> None:
    assert await cluster.list(api_version, kind, namespace, {}) == []
