"""A status that is wiped, written over, or restored for another record.

The attacker, or the accident: Mallory, an account that may patch `tenants/status` and nothing else in the
organisation's namespace: a tool with too many rights, a restore without status, a `kubectl replace` gone wrong. The
status is the journal, so what it does not tell must be found out by looking. And those who restore Tenants from a
backup of objects (Velero and the like): the record has a new UID, and what it held is there under the old one.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tenant_operator.api.names import ANNOTATION_RECORD, FINALIZER, LABEL_TENANT_UID
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, connect, settled, status

MALLORY = "mallory@acme.example"
EMPTY: Object = {}
ENDED = "tenant.deprovisioning.completed"


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    return {"STALLED_RETRY": "1s"}


@pytest.fixture(scope="module", autouse=True)
def _mallory(module_world: World) -> None:
    """May write the status of Tenants, and read them."""
    group, metadata = "rbac.authorization.k8s.io", {"name": "status-writer", "namespace": catalog.NAMESPACE}
    rules = [
        {"apiGroups": ["intelliauth.io"], "resources": ["tenants/status"], "verbs": ["get", "patch"]},
        {"apiGroups": ["intelliauth.io"], "resources": ["tenants"], "verbs": ["get"]},
    ]
    subject = {"apiGroup": group, "kind": "User", "name": MALLORY}
    reference = {"apiGroup": group, "kind": "Role", "name": "status-writer"}
    module_world.apply(
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": reference,
            "subjects": [subject],
        },
    )
    can = ["auth", "can-i", "patch", "tenants.intelliauth.io", "--subresource=status", f"--as={MALLORY}"]
    where = f"--namespace={catalog.NAMESPACE}"
    until(lambda: module_world.ask(*can, where).code == 0, "the authorizer has heard of the role")


def write_status(world: World, tenant: TenantUnderTest, content: Object = EMPTY) -> None:
    """What Mallory does."""
    patch = json.dumps([{"op": "replace", "path": "/status", "value": content}])
    options = ["--subresource=status", "--type=json", f"--patch={patch}", f"--as={MALLORY}"]
    world.kubectl("patch", "tenant", tenant.name, tenant.where, *options)


def want(world: World, tenant: TenantUnderTest, state: str) -> None:
    patch = json.dumps({"spec": {"desiredState": state}})
    world.kubectl("patch", "tenant", tenant.name, tenant.where, "--type=merge", f"--patch={patch}")


def backend(tenant: TenantUnderTest) -> str:
    """The Service that the tenant's route leads to."""
    (rule,) = tenant.object("ingress", "tenant")["spec"]["rules"]
    name: str = rule["http"]["paths"][0]["backend"]["service"]["name"]
    return name


def keep_diary(tenant: TenantUnderTest) -> str:
    """A row that must survive; how to read it."""
    uri = tenant.secret("database-credentials")["uri"]
    with connect(uri) as session:
        session.execute("CREATE TABLE diary (entry text)")
        session.execute("INSERT INTO diary VALUES ('still here')")
    return uri


def diary(uri: str) -> list[tuple[Any, ...]]:
    with connect(uri) as session:
        return session.execute("SELECT entry FROM diary").fetchall()


def serving(world: World, name: str, **spec: Any) -> tuple[TenantUnderTest, str]:
    """A tenant that serves, with a row in its database."""
    tenant = world.tenant(name, **spec)
    tenant.settles("Active")
    return tenant, keep_diary(tenant)


def adopted(tenant: Object) -> bool:
    """Whether it serves, taken over as it was, with nothing left to do."""
    run, stalled = status(tenant).get("run") or {}, condition(tenant, "Stalled")
    done = settled(tenant, "Active") and condition(tenant, "WorkloadsReady").get("reason") == "Completed"
    return done and run.get("kind") == "Adopt" and not stalled


def types(tenant: TenantUnderTest, world: World, uid: str = "") -> list[str]:
    return [event["type"] for event in world.audit() if event["tenant_id"] == (uid or tenant.uid)]


# Wiped.


def test_wiped_and_left_alone_it_goes_on_serving(world: World) -> None:
    tenant, uri = serving(world, "wiped")
    before, secrets = status(tenant.newest()), tenant.secret("identity-signing-key")
    route, told = tenant.object("ingress", "tenant"), types(tenant, world)
    heard = len(tenant.versions)

    write_status(world, tenant)
    now = status(tenant.wait(adopted, "is taken over").tenant)

    assert (now["attempt"], now["tenantId"]) == (1, tenant.uid)
    keys = {(row["kind"], row["name"]) for row in before["allocations"]}
    assert {(row["kind"], row["name"]) for row in now["allocations"]} == keys
    assert condition(tenant.newest(), "Ready")["status"] == "True"
    assert diary(uri) == [("still here",)]
    assert tenant.secret("database-credentials")["uri"] == uri
    assert tenant.secret("identity-signing-key") == secrets
    # The route was never another: what it leads to, and that nobody has written to it, tell so.
    assert tenant.object("ingress", "tenant")["metadata"]["generation"] == route["metadata"]["generation"]
    states = {status(each).get("state") for each in tenant.versions[heard:]} - {None}
    assert states <= {"Active", "Pending"}
    assert types(tenant, world)[len(told) :] == ["tenant.adopted"]
    assert len(tenant.mails()) == 3
    tenant.event("Adopted")

    want(world, tenant, "Suspended")
    tenant.settles("Suspended")
    write_status(world, tenant)
    tenant.wait(lambda each: settled(each, "Suspended"), "is taken over, closed")
    assert backend(tenant) == "paused"


@pytest.mark.parametrize("operator_is_down", [False, True])
@pytest.mark.parametrize("ending", ["decommission", "delete"])
def test_wiped_and_released_nothing_is_left_behind(world: World, ending: str, operator_is_down: bool) -> None:
    tenant, _ = serving(world, f"wiped-{ending}{'-down' if operator_is_down else ''}")
    assert (len(tenant.namespaces()), len(tenant.databases()), len(tenant.roles())) == (1, 1, 2)
    if operator_is_down:
        assert world.operator.stop() == 0
    write_status(world, tenant)
    if ending == "delete":
        world.delete([tenant], wait=False)
    else:
        want(world, tenant, "Decommissioned")
    if operator_is_down:
        world.operator.start()
    if ending == "delete":
        tenant.delete()
        until(lambda: types(tenant, world)[-1] == "tenant.deleted", "the feed has its end")
    else:
        tenant.settles("Decommissioned")
    tenant.holds_nothing()
    told = types(tenant, world)
    after = told[told.index("tenant.provisioning.completed") :]
    assert [each for each in after if each == ENDED] == [ENDED]
    assert "tenant.deprovisioning.started" in after and "tenant.provisioning.started" not in after
    assert after.index(ENDED) > after.index("tenant.deprovisioning.started")


def test_wiped_when_there_is_nothing_it_tells_of_nothing(world: World) -> None:
    """From Pending to Decommissioned is one change, and the last look invents nothing."""
    tenant = world.tenant("never-begun", desiredState="Decommissioned")
    tenant.settles("Decommissioned")
    assert types(tenant, world) == [ENDED]
    tenant.delete()
    until(lambda: types(tenant, world) == [ENDED, "tenant.deleted"], "the feed has its end")


def test_wiped_on_the_way_it_begins_anew_under_another_number(world: World) -> None:
    tenant = world.tenant("wiped-on-the-way", "endless")
    tenant.runs("wait-ready")
    write_status(world, tenant)
    tenant.wait(lambda each: status(each).get("attempt") == 2, "begins anew")
    tenant.runs("wait-ready")
    starts = [each["data"]["attempt_number"] for each in tenant.told("tenant.provisioning.started")]
    assert starts == [1, 2]
    assert [each["data"]["attempt_number"] for each in tenant.told("tenant.provisioning.reset")] == [1]
    assert (len(tenant.databases()), len(tenant.namespaces())) == (1, 1)
    write_status(world, tenant)
    tenant.delete()
    tenant.holds_nothing()


def test_an_old_status_written_over_a_new_one_unmakes_nothing(world: World) -> None:
    """A tool that puts back what it once saw: a run on its way, a run that fails, and one that is rolling back."""
    tenant, uri = serving(world, "replayed")
    seen = next(status(each) for each in tenant.versions if status(each).get("state") == "Provisioning")
    seen = {name: value for name, value in seen.items() if name != "outbox"}
    rolling = {**seen, "run": {**seen["run"], "direction": "Backward", "reason": "Failed", "failedActivity": "x"}}
    failed = {**seen["run"], "outcome": "Failed", "finishedAt": seen["run"]["startedAt"]}
    for content in (seen, rolling, {**seen, "run": failed, "allocations": []}, {"attempt": 7}):
        write_status(world, tenant, content)
        tenant.wait(adopted, "is taken over", 120)
        assert (diary(uri), backend(tenant)) == ([("still here",)], "auth")
    assert len(tenant.mails()) == 3
    assert "tenant.provisioning.compensated" not in types(tenant, world)


def test_what_cannot_be_made_again_is_not_made_silently(world: World) -> None:
    tenant, uri = serving(world, "incomplete")
    (database,) = tenant.databases()
    world.query(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
    world.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)
    world.query(f'ALTER DATABASE "{database}" RENAME TO "set_aside"')
    write_status(world, tenant)
    tenant.wait(lambda each: condition(each, "Stalled").get("reason") == "StatusLost", "says what is missing")
    assert f"PostgresDatabase {database}" in condition(tenant.newest(), "Stalled")["message"]
    assert (tenant.databases(), backend(tenant)) == ([], "auth")
    world.query(f'ALTER DATABASE "set_aside" RENAME TO "{database}"')
    world.query(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    tenant.wait(adopted, "is taken over")
    assert diary(uri) == [("still here",)]


# Restored.


def lose(world: World, tenant: TenantUnderTest) -> Object:
    """The record is gone, and nobody could release what it held; as it was backed up before."""
    backup = world.read("tenant", tenant.name, catalog.NAMESPACE)
    assert backup is not None
    assert world.operator.stop() == 0
    world.kubectl("delete", "tenant", tenant.name, tenant.where, "--wait=false")
    world.kubectl(
        "patch", "tenant", tenant.name, tenant.where, "--type=merge", '--patch={"metadata":{"finalizers":null}}'
    )
    until(lambda: world.read("tenant", tenant.name, catalog.NAMESPACE) is None, "the record is gone")
    return backup


def restore(world: World, backup: Object, **instead: Any) -> TenantUnderTest:
    """What a tool for backups makes of it: the same object, with another UID and without a status."""
    metadata = {name: backup["metadata"][name] for name in ("name", "namespace")} | {"finalizers": [FINALIZER]}
    metadata |= {name: value for name, value in instead.items() if name == "name"}
    spec = {**backup["spec"], **{name: value for name, value in instead.items() if name != "name"}}
    answer = world.ask("create", "--filename=-", stdin=json.dumps({**backup, "metadata": metadata, "spec": spec}))
    assert answer.code == 0, answer.err
    stored = world.read("tenant", metadata["name"], metadata["namespace"])
    assert stored is not None
    tenant = TenantUnderTest(world, stored)
    world.applied.append(tenant)
    return tenant


@pytest.mark.parametrize("with_status", [False, True])
def test_a_restored_tenant_takes_over_what_is_its_own(world: World, with_status: bool) -> None:
    former, uri = serving(world, f"restored{'-with-status' if with_status else ''}")
    backup = lose(world, former)
    if not with_status:
        # As in another cluster, where the namespace came back with its Secrets and nothing else.
        kinds = "deployments,services,ingresses,networkpolicies,poddisruptionbudgets,configmaps"
        world.kubectl("delete", kinds, "--all", f"--namespace={former.namespace}")
    tenant = restore(world, backup)
    assert tenant.uid != former.uid
    if with_status:
        write_status(world, tenant, backup["status"])
    world.operator.start()
    now = status(tenant.wait(adopted, "is taken over").tenant)
    assert (now["tenantId"], now["recordUid"], now["attempt"]) == (former.uid, tenant.uid, 1)
    assert diary(uri) == [("still here",)]
    assert (former.namespaces(), len(former.databases()), len(former.roles())) == ([former.namespace], 1, 2)
    assert (tenant.namespaces(), tenant.databases()) == ([], [])
    assert backend(tenant) == "auth"
    assert len(former.mails()) == 3
    told = types(tenant, world, former.uid)
    after = told[told.index("tenant.provisioning.completed") :]
    ends = [each for each in after if not each.startswith("tenant.provisioning")]
    # A route that was not there was opened anew; one that was there has never been closed.
    assert ends == (["tenant.adopted"] if with_status else ["tenant.adopted", "tenant.resumed"])
    assert told.count("tenant.provisioning.started") == 1
    if with_status:
        # The tool comes late: the operator has taken over before the old status arrives.
        write_status(world, tenant, backup["status"])
        tenant.wait(lambda each: adopted(each) and status(each)["recordUid"] == tenant.uid, "is taken over again")
        assert diary(uri) == [("still here",)]

    # It is a tenant like any other: drift is put right, a new life of the operator knows it, and it can be released.
    assert world.operator.stop() == 0
    world.operator.start()
    world.kubectl("delete", "deployment", "auth", f"--namespace={tenant.namespace}")
    until(lambda: world.read("deployment", "auth", tenant.namespace), "the workload is back", 60)
    want(world, tenant, "Decommissioned")
    tenant.settles("Decommissioned")
    former.holds_nothing()
    want(world, tenant, "Active")
    assert tenant.settles("Active")["attempt"] == 2
    tenant.delete()
    former.holds_nothing()
    tenant.holds_nothing()


@pytest.mark.parametrize("with_status", [False, True])
def test_a_restored_tenant_that_is_deleted_releases_what_is_its_own(world: World, with_status: bool) -> None:
    former, _ = serving(world, f"restored-to-go{'-with-status' if with_status else ''}")
    backup = lose(world, former)
    tenant = restore(world, backup)
    if with_status:
        write_status(world, tenant, backup["status"])
    world.delete([tenant], wait=False)
    world.operator.start()
    tenant.delete()
    former.holds_nothing()
    until(lambda: types(tenant, world, former.uid)[-1] == "tenant.deleted", "the feed has its end")


def test_what_an_owner_lives_for_is_not_taken_over(world: World) -> None:
    """The same slug under another name, while the owner is there, and after it has lost its record."""
    owner, uri = serving(world, "owned")
    thief = world.tenant("thief", slug="owned")
    failed = thief.settles("Failed")
    assert f"host {owner.host} is taken" in failed["run"]["error"]
    # Nor by claiming, in a status, to be the one who owns it.
    write_status(world, thief, {"tenantId": owner.uid, "state": "Pending"})
    thief.wait(lambda each: condition(each, "Stalled").get("reason") == "StatusLost", "is not believed")
    assert f"host {owner.host} is taken" in condition(thief.newest(), "Stalled")["message"]
    write_status(world, thief, {**status(owner.newest()), "recordUid": thief.uid})
    want(world, thief, "Decommissioned")
    thief.wait(lambda each: condition(each, "Stalled").get("reason") == "ReleaseFailed", "releases nothing of others")
    assert (diary(uri), owner.namespaces()) == ([("still here",)], [owner.namespace])

    backup = lose(world, owner)
    world.operator.start()
    write_status(world, thief)
    thief.settles("Decommissioned")
    want(world, thief, "Active")
    thief.wait(lambda each: settled(each, "Failed"), "is refused")
    assert diary(uri) == [("still here",)]
    thief.delete()
    back = restore(world, backup)
    back.wait(adopted, "is taken over")
    assert diary(uri) == [("still here",)]
    back.delete()
    owner.holds_nothing()


def test_without_the_namespace_nothing_proves_whose_the_data_is(world: World) -> None:
    former, _ = serving(world, "unproven")
    backup = lose(world, former)
    world.kubectl("delete", "namespace", former.namespace)
    tenant = restore(world, backup)
    write_status(world, tenant, backup["status"])
    world.operator.start()
    tenant.wait(lambda each: condition(each, "Stalled").get("reason") == "StatusLost", "asks a person")
    message = condition(tenant.newest(), "Stalled")["message"]
    assert f"orphans --release {former.uid}" in message and former.database in message
    assert (tenant.namespaces(), tenant.databases(), len(former.databases())) == ([], [], 1)

    # The namespace comes back from its backup: it is the proof.
    labels = {
        "app.kubernetes.io/managed-by": "tenant-operator",
        LABEL_TENANT_UID: former.uid,
        "intelliauth.io/tenant": former.name,
        "intelliauth.io/organization": catalog.ORGANIZATION,
    }
    annotations = {ANNOTATION_RECORD: f"{catalog.NAMESPACE}/{former.name}", "intelliauth.io/served": "true"}
    metadata = {"name": former.namespace, "labels": labels, "annotations": annotations}
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    key = f"Secret {former.namespace}/identity-signing-key"
    tenant.wait(lambda each: key in condition(each, "Stalled").get("message", ""), "misses the signing key")
    assert len(former.databases()) == 1
    want(world, tenant, "Decommissioned")
    tenant.settles("Decommissioned")
    former.holds_nothing()
