"""What a serving tenant is made of stays what it is: others' changes go wholly, what is gone comes back without loss of
data, and what is lost is said to be."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, connect, status

SECONDS = 60.0
PATIENCE = 90.0
DATABASE, IDENTITY, KEY, JWKS = "database-credentials", "identity-credentials", "identity-signing-key", "identity-jwks"


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    return {"STALLED_RETRY": "1s", "COMPARE": "3s", "DEGRADED_AFTER": "3s"}


def edit(world: World, tenant: TenantUnderTest, kind: str, name: str, patch: Any, how: str = "strategic") -> None:
    where = () if kind == "namespace" else (f"--namespace={tenant.namespace}",)
    world.kubectl("patch", kind, name, *where, f"--type={how}", f"--patch={json.dumps(patch)}")


def container(**fields: object) -> Object:
    return {"spec": {"template": {"spec": {"containers": [{"name": "auth", **fields}]}}}}


SIDECAR = {"spec": {"template": {"spec": {"containers": [{"name": "miner", "image": "example/miner:1"}]}}}}
EVIL = {"service": {"name": "evil", "port": {"number": 80}}}
EDITS: list[tuple[str, str, Object, str]] = [
    ("networkpolicy", "default-deny", {"spec": {"ingress": [{}]}}, "spec.ingress"),
    ("deployment", "auth", SIDECAR, "spec.template.spec.containers[name=miner]"),
    ("deployment", "auth", container(env=[{"name": "LD_PRELOAD", "value": "x"}]), "env[name=LD_PRELOAD]"),
    ("deployment", "auth", container(command=["sh"]), "containers[name=auth].command"),
    ("deployment", "auth", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}, "spec.strategy"),
    ("deployment", "auth", {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}, "nodeSelector"),
    ("deployment", "auth", {"spec": {"paused": True}}, "spec.paused"),
    ("ingress", "tenant", {"spec": {"defaultBackend": EVIL}}, "spec.defaultBackend"),
    ("ingress", "tenant", {"spec": {"ingressClassName": "evil"}}, "spec.ingressClassName"),
    ("service", "auth", {"spec": {"externalIPs": ["192.0.2.1"]}}, "spec.externalIPs"),
    ("resourcequota", "tenant-quota", {"spec": {"hard": {"pods": "1000"}}}, "spec.hard.pods"),
]


def content(tenant: TenantUnderTest, kind: str, name: str) -> Object:
    """What an object says, without what the cluster notes."""
    found = tenant.object(kind, name)
    return {"spec": found.get("spec"), "labels": found["metadata"].get("labels")}


def test_of_what_others_do_nothing_is_left_and_it_is_told_what_it_was(world: World) -> None:
    """One after the other, on one tenant; each is told with its object, its fields, and who did it."""
    tenant = world.tenant("edited", "standard")
    tenant.settles("Active")
    before = {(kind, name): content(tenant, kind, name) for kind, name, _, _ in EDITS}
    for kind, name, patch, field in EDITS:
        edit(world, tenant, kind, name, patch)
        event = tenant.event("DriftCorrected", says=field, seconds=SECONDS)
        assert f"/{name}: " in event["note"]
        assert "kubectl-patch" in event["note"]
        assert content(tenant, kind, name) == before[kind, name], field
    told = until(lambda: len(tenant.told("tenant.drift.corrected")) >= len(EDITS), "the feed has them all")
    assert told
    first = tenant.told("tenant.drift.corrected")[0]["data"]
    assert first == {
        "object": f"NetworkPolicy {tenant.namespace}/default-deny",
        "fields": ["spec.ingress"],
        "manager": "kubectl-patch",
    }
    assert {
        condition(each, "Ready").get("status") for each in tenant.versions if status(each).get("state") == "Active"
    } == {"True"}


def test_changed_labels_do_not_blind_the_operator(world: World) -> None:
    tenant = world.tenant("relabelled", "standard")
    tenant.settles("Active")
    edits: list[tuple[str, str, Object]] = [
        ("deployment", "auth", {"app.kubernetes.io/managed-by": "nobody"}),
        ("networkpolicy", "default-deny", {"intelliauth.io/tenant-uid": "nobody"}),
        ("service", "auth", {"intelliauth.io/tenant-uid": None}),
        ("namespace", tenant.namespace, {"pod-security.kubernetes.io/enforce": "privileged"}),
    ]
    for kind, name, labels in edits:
        before = labels_of(world, tenant, kind, name)
        edit(world, tenant, kind, name, {"metadata": {"labels": labels}})
        until(lambda k=kind, n=name, b=before: labels_of(world, tenant, k, n) == b, f"{kind} has its labels", SECONDS)  # type: ignore[misc]
    edit(world, tenant, "networkpolicy", "default-deny", {"spec": {"ingress": [{}]}})
    tenant.event("DriftCorrected", says="spec.ingress")


def labels_of(world: World, tenant: TenantUnderTest, kind: str, name: str) -> Object:
    found = world.read(kind, name, None if kind == "namespace" else tenant.namespace)
    assert found is not None
    labels: Object = found["metadata"]["labels"]
    return labels


def test_what_changed_while_the_operator_was_down_is_put_right(world: World) -> None:
    tenant = world.tenant("edited-meanwhile", "standard")
    tenant.settles("Active")
    before = {kind: content(tenant, kind, "auth") for kind in ("deployment", "service")}
    assert world.operator.stop() == 0
    edit(world, tenant, "deployment", "auth", {"spec": {"paused": True}})
    edit(world, tenant, "service", "auth", {"spec": {"externalIPs": ["192.0.2.1"]}})
    edit(world, tenant, "resourcequota", "tenant-quota", [{"op": "remove", "path": "/spec/hard/pods"}], "json")
    world.kubectl("delete", "service", "paused", f"--namespace={tenant.namespace}")
    world.kubectl("delete", "configmap", JWKS, f"--namespace={tenant.namespace}")
    world.operator.start()

    for kind, was in before.items():
        until(lambda k=kind, w=was: content(tenant, k, "auth") == w, f"{kind} is as it was", SECONDS)  # type: ignore[misc]
    until(lambda: "pods" in tenant.object("resourcequota", "tenant-quota")["spec"]["hard"], "so is the quota", SECONDS)
    until(lambda: world.read("service", "paused", tenant.namespace), "the way to the responder is there", SECONDS)
    until(lambda: world.read("configmap", JWKS, tenant.namespace), "the keys are published", SECONDS)


@pytest.mark.parametrize("secret", [DATABASE, IDENTITY])
def test_a_deleted_secret_is_made_again_and_no_data_is_lost(world: World, secret: str) -> None:
    """The password that nobody knows any more is replaced in PostgreSQL, and the pods that had read it are new."""
    tenant = world.tenant(f"loses-{secret.partition('-')[0]}", "small")
    tenant.settles("Active")
    old = tenant.secret(secret)
    with connect(old["uri"]) as session:
        session.execute("CREATE TABLE kept (value text)")
        session.execute("INSERT INTO kept VALUES ('precious')")
    pods = {each["metadata"]["uid"] for each in world.listed("pods", f"--namespace={tenant.namespace}")}
    world.kubectl("delete", "secret", secret, f"--namespace={tenant.namespace}")

    tenant.event("Repaired", says=f"Secret {tenant.namespace}/{secret}", seconds=PATIENCE)
    new = tenant.secret(secret)
    assert new["password"] != old["password"]
    with connect(new["uri"]) as session:
        assert session.execute("SELECT value FROM kept").fetchall() == [("precious",)]

    def pods_are_new() -> bool:
        now = {each["metadata"]["uid"] for each in world.listed("pods", f"--namespace={tenant.namespace}")}
        return bool(now) and not now & pods

    until(pods_are_new, "the pods are made anew", PATIENCE)
    tenant.wait(lambda each: condition(each, "WorkloadsReady").get("status") == "True", "all is well")
    now = tenant.settles("Active")
    assert (now["attempt"], now["credentials"]) == (1, 1)
    (repaired,) = until(lambda: tenant.told("tenant.repaired"), "the feed tells it")
    assert repaired["data"]["object"] == f"Secret {tenant.namespace}/{secret}"


def test_a_tampered_secret_is_mended(world: World) -> None:
    tenant = world.tenant("tampered", "small")
    tenant.settles("Active")
    old = tenant.secret(DATABASE)
    edit(world, tenant, "secret", DATABASE, {"stringData": {"uri": "postgresql://evil.example/x"}})

    until(lambda: tenant.secret(DATABASE) == old, "it is as it was", PATIENCE)


def test_a_lost_signing_key_is_said_to_be_and_a_new_one_is_for_a_person_to_make(world: World, tmp_path: Path) -> None:
    tenant = world.tenant("loses-key", "small")
    before = tenant.settles("Active")
    world.kubectl("delete", "secret", KEY, f"--namespace={tenant.namespace}")

    version = tenant.wait(lambda each: condition(each, "Ready").get("reason") == "ResourcesLost", "is lost", PATIENCE)
    for type_ in ("Ready", "Stalled", "ResourcesAllocated"):
        said = condition(version.tenant, type_)
        assert said["message"].startswith(
            f"Secret {tenant.namespace}/{KEY} is gone, and cannot be made again without loss"
        )
    assert (status(version.tenant)["state"], status(version.tenant)["run"]) == ("Active", before["run"])
    assert tenant.event("ResourcesLost")["type"] == "Warning"
    assert world.read("secret", KEY, tenant.namespace) is None

    # What the message says, word by word.
    commands = said["message"].partition("is invalid: ")[2].partition("; or")[0].split(" && ")
    kubectl = f"{world.platform.kubectl} --kubeconfig={world.platform.kubeconfig}"
    for command in commands:
        line = command.replace("kubectl", kubectl, 1) if command.startswith("kubectl") else command
        subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)  # noqa: S603
    tenant.wait(lambda each: condition(each, "Ready").get("status") == "True", "serves again", PATIENCE)
    key = tenant.secret(KEY)
    assert key["alg"] == "ES256"
    (published,) = json.loads(tenant.object("configmap", JWKS)["data"]["jwks.json"])["keys"]
    assert published["kid"] == key["kid"]
    assert [each["type"] for each in tenant.feed()][-2:] == ["tenant.degraded", "tenant.recovered"]
    assert not condition(tenant.newest(), "Stalled")


def test_a_lost_database_is_said_to_be_and_none_is_made_in_its_place(world: World) -> None:
    tenant = world.tenant("loses-database", "small")
    tenant.settles("Active")
    world.query(f'ALTER DATABASE "{tenant.database}" RENAME TO "set_aside"')
    version = tenant.wait(lambda each: condition(each, "Ready").get("reason") == "ResourcesLost", "is lost", PATIENCE)
    assert f"PostgresDatabase {tenant.database} is gone" in condition(version.tenant, "Stalled")["message"]
    assert tenant.databases() == []

    world.query(f'ALTER DATABASE "set_aside" RENAME TO "{tenant.database}"')
    tenant.wait(lambda each: condition(each, "Ready").get("status") == "True", "serves again", PATIENCE)
    tenant.event("ResourcesFound")
    with connect(tenant.secret(DATABASE)["uri"]) as session:
        assert session.execute("SELECT 1").fetchall() == [(1,)]


def test_a_deleted_namespace_comes_back_with_all_that_can_come_back(world: World) -> None:
    """The data are in PostgreSQL and are kept; the signing key is lost with the namespace, and that is said."""
    tenant = world.tenant("loses-namespace", "standard")
    tenant.settles("Active")
    with connect(tenant.secret(DATABASE)["uri"]) as session:
        session.execute("CREATE TABLE kept AS SELECT 'precious' AS value")
    kinds = ("deployments", "services", "networkpolicies", "ingresses", "resourcequotas", "limitranges")
    before = {kind: tenant.names(kind) for kind in kinds}
    world.kubectl("delete", "namespace", tenant.namespace)

    for kind in kinds:
        until(lambda k=kind: tenant.names(k) == before[k], f"{kind} are there again", PATIENCE)  # type: ignore[misc]
    tenant.wait(lambda each: condition(each, "Ready").get("reason") == "ResourcesLost", "its key is lost", PATIENCE)
    until(lambda: world.read("secret", DATABASE, tenant.namespace), "the login is there again", PATIENCE)

    def is_kept() -> bool:
        with connect(tenant.secret(DATABASE)["uri"]) as session:
            return session.execute("SELECT value FROM kept").fetchall() == [("precious",)]

    assert until(is_kept, "the data are kept")


def test_what_is_fine_costs_no_write(world: World) -> None:
    """Compared again and again."""
    tenant = world.tenant("compared", "standard")
    tenant.settles("Active")
    before = tenant.newest()["metadata"]["resourceVersion"]
    witness = world.tenant("compared-witness", "standard")
    witness.settles("Active")
    world.kubectl("delete", "configmap", JWKS, f"--namespace={witness.namespace}")
    for _ in range(2):
        until(lambda: world.read("configmap", JWKS, witness.namespace), "the witness is compared", SECONDS)
        world.kubectl("delete", "configmap", JWKS, f"--namespace={witness.namespace}")
    until(lambda: world.read("configmap", JWKS, witness.namespace), "the witness is compared", SECONDS)

    assert tenant.newest()["metadata"]["resourceVersion"] == before
