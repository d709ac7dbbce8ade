"""The main job: a Tenant is applied, and becomes an isolated environment that serves."""

import json
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tenant_operator.api.names import ActivityName
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, connect, status

OWN_LABELS = {
    "app.kubernetes.io/managed-by": "tenant-operator",
    "intelliauth.io/organization": catalog.ORGANIZATION,
}
ALLOCATING = [str(activity) for activity in list(ActivityName)[1:5]]
"""Those that take something into the ledger."""


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    """It tells its log all it can, so that a secret has every chance to show."""
    return {"LOG_LEVEL": "debug"}


@pytest.fixture(scope="module")
def both(module_world: World) -> Iterator[list[TenantUnderTest]]:
    """Two tenants of the standard plan, applied together, Active, with all told."""
    both = module_world.tenants(["banking", "insurance"], "standard", region=catalog.REGION)
    module_world.applied.clear()  # they outlive the first test
    for tenant in both:
        tenant.settles("Active")
    yield both
    module_world.delete(both, wait=False)


@pytest.fixture
def banking(both: list[TenantUnderTest]) -> TenantUnderTest:
    return both[0]


@pytest.fixture
def insurance(both: list[TenantUnderTest]) -> TenantUnderTest:
    return both[1]


def test_kubectl_waits_for_it(world: World, banking: TenantUnderTest) -> None:
    """`kubectl wait` needs to be told nothing about Tenants."""
    world.kubectl("wait", "--for=condition=Ready", "tenant/banking", banking.where, "--timeout=30s")
    world.kubectl("wait", "--for=jsonpath={.status.state}=Active", "tn/banking", banking.where, "--timeout=30s")
    now = status(banking.newest())
    assert now["url"] == f"https://{banking.host}"
    assert (now["tenantId"], now["attempt"]) == (banking.uid, 1)
    assert now["run"]["outcome"] == "Completed"


def test_kubectl_lists_it(world: World, banking: TenantUnderTest) -> None:
    header, line = world.kubectl("get", "tenant", "banking", banking.where).splitlines()
    assert header.split() == ["NAME", "STATE", "PHASE", "ATTEMPT", "PLAN", "URL", "READY", "AGE"]
    columns = [line[header.index(title) :].split("  ")[0].strip() for title in header.split()]
    assert columns[:-1] == ["banking", "Active", "", "1", "standard", f"https://{banking.host}", "True"]
    wide_header, wide = world.kubectl("get", "tenant", "banking", banking.where, "--output=wide").splitlines()
    assert wide_header.split()[-2:] == ["WORKER", "MESSAGE"]
    assert f"serving at https://{banking.host}" in wide
    assert status(banking.newest())["run"]["worker"] in wide


def test_kubectl_describes_what_happened(world: World, banking: TenantUnderTest) -> None:
    banking.event("Active", says=banking.host)
    banking.event("StepCompleted", says="send-welcome-emails: welcome emails dispatched")
    described = world.kubectl("describe", "tenant", "banking", banking.where)
    _, _, events = described.partition("\nEvents:")
    for reason in ("ProvisioningStarted", "StepCompleted", "Active"):
        assert reason in events
    assert {event["type"] for event in banking.events()} == {"Normal"}


def test_namespace_of_its_own_with_the_bounds_of_the_plan(world: World, banking: TenantUnderTest) -> None:
    namespace = world.read("namespace", banking.namespace)
    assert namespace is not None
    labels = namespace["metadata"]["labels"]
    own = {**OWN_LABELS, "intelliauth.io/tenant-uid": banking.uid, "intelliauth.io/tenant": "banking"}
    assert own.items() <= labels.items()
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    quota = banking.object("resourcequota", "tenant-quota")
    assert quota["spec"]["hard"] == {"requests.cpu": "1", "requests.memory": "1Gi", "pods": "10"}
    (limits,) = banking.object("limitrange", "tenant-limits")["spec"]["limits"]
    assert (limits["default"]["cpu"], limits["defaultRequest"]["cpu"]) == ("100m", "10m")
    assert own.items() <= quota["metadata"]["labels"].items()


def test_network_is_closed_by_default(banking: TenantUnderTest) -> None:
    deny = banking.object("networkpolicy", "default-deny")["spec"]
    assert (deny["podSelector"], sorted(deny["policyTypes"])) == ({}, ["Egress", "Ingress"])
    assert "ingress" not in deny
    assert "egress" not in deny
    sources = banking.object("networkpolicy", "allow-ingress")["spec"]["ingress"][0]["from"]
    assert {"podSelector": {}} in sources
    foreign = [each["namespaceSelector"]["matchLabels"] for each in sources if "namespaceSelector" in each]
    assert foreign == [{"kubernetes.io/metadata.name": "ingress-nginx"}]
    assert banking.object("networkpolicy", "allow-egress")["spec"]["policyTypes"] == ["Egress"]


def test_route_leads_to_the_routed_service(banking: TenantUnderTest) -> None:
    (rule,) = banking.object("ingress", "tenant")["spec"]["rules"]
    assert rule["host"] == banking.host
    service = rule["http"]["paths"][0]["backend"]["service"]
    assert service == {"name": "auth", "port": {"number": 8080}}
    assert banking.object("service", "auth")["spec"]["ports"][0]["port"] == 8080
    assert condition(banking.newest(), "TrafficEnabled")["status"] == "True"


def test_workloads_are_available(world: World, banking: TenantUnderTest) -> None:
    deployments = world.listed("deployments", f"--namespace={banking.namespace}")
    available = {each["metadata"]["name"]: each["status"].get("availableReplicas") for each in deployments}
    assert available == {"auth": 2, "worker": 1}
    assert banking.object("poddisruptionbudget", "auth")["spec"]["maxUnavailable"] == 1


def test_database_is_its_own(banking: TenantUnderTest, insurance: TenantUnderTest) -> None:
    """Every role gets into its own database, and into no other."""
    storage, identity = banking.secret("database-credentials"), banking.secret("identity-credentials")
    assert banking.databases() == [storage["database"]]
    assert sorted(banking.roles()) == sorted([storage["username"], identity["username"]])
    for credentials in (storage, identity):
        with connect(credentials["uri"]) as session:
            me = session.execute("SELECT current_database(), current_user").fetchone()
            assert me == (storage["database"], credentials["username"])
        for foreign in insurance.databases():
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                connect(credentials["uri"], dbname=foreign)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(credentials["uri"], password="guessed")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(storage["uri"], password=identity["password"])


def test_schema_belongs_to_the_identity_role(world: World, banking: TenantUnderTest) -> None:
    storage, identity = banking.secret("database-credentials"), banking.secret("identity-credentials")
    with connect(identity["uri"]) as session:
        session.execute("INSERT INTO users (id) SELECT gen_random_uuid() WHERE false")
        tables = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'identity'").fetchall()
        assert {"users", "sessions", "audit_events"} <= {table for (table,) in tables}
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("CREATE DATABASE mine")
    with connect(storage["uri"]) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT count(*) FROM identity.users")
    with connect(world.platform.database_url, dbname=storage["database"]) as session:
        applied = session.execute("SELECT version FROM identity.schema_migrations ORDER BY version").fetchall()
    assert [version[:4] for (version,) in applied] == ["0001", "0002", "0003", "0004"]
    ((limit,),) = world.query("SELECT datconnlimit FROM pg_database WHERE datname = %s", storage["database"])
    assert limit == 7


def test_published_key_is_that_of_the_private_key(banking: TenantUnderTest) -> None:
    secret = banking.secret("identity-signing-key")
    private = load_pem_private_key(secret["private-key.pem"].encode(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    (published,) = json.loads(banking.object("configmap", "identity-jwks")["data"]["jwks.json"])["keys"]
    numbers = private.public_key().public_numbers()
    assert (_number(published["x"]), _number(published["y"])) == (numbers.x, numbers.y)
    assert (published["kid"], published["alg"]) == (secret["kid"], secret["alg"])
    assert "d" not in published


def _number(text: str) -> int:
    return int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_first_admin_gets_three_emails_in_order(banking: TenantUnderTest) -> None:
    """Their Message-IDs are made of the run: whoever sends one again, sends the same."""
    mails = banking.mails()
    run = status(banking.newest())["run"]["id"]
    ids = [f"<{banking.uid}.{run}.{email}@tenants.example>" for email in ("welcome", "console-url", "onboarding")]
    assert [mail["Message-ID"] for mail in mails] == ids
    assert len({mail["Subject"] for mail in mails}) == 3
    assert f"https://{banking.host}" in mails[0].get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert condition(banking.newest(), "WelcomeEmailsSent")["status"] == "True"


def test_audit_feed_tells_it_all_in_order(banking: TenantUnderTest) -> None:
    feed = banking.feed()
    ids = [event["id"] for event in feed]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    times = [datetime.fromisoformat(event["created_at"]) for event in feed]
    assert times == sorted(times)
    types = [event["type"].removeprefix("tenant.provisioning.") for event in feed]
    assert types == ["started", *["step_completed"] * 13, "completed", "step_completed"]
    steps = [event["data"]["step"] for event in feed if "step" in event["data"]]
    assert list(dict.fromkeys(steps)) == [str(activity) for activity in ActivityName]
    assert Counter(steps) == Counter([*map(str, ActivityName), *ALLOCATING])
    for event in feed:
        assert (event["org_id"], event["tenant_id"]) == (catalog.ORGANIZATION, banking.uid)
        assert set(event) == {"id", "type", "actor_id", "actor_email", "org_id", "tenant_id", "created_at", "data"}
    started, completed, last = feed[0], feed[-2], feed[-1]
    assert started["data"]["tenant_slug"] == "banking"
    assert (started["data"]["plan"], started["data"]["attempt_number"]) == ("standard", 1)
    assert completed["data"]["duration_seconds"] > 0
    assert any(banking.namespace in resource for resource in completed["data"]["resources"])
    assert last["data"]["details"] == "welcome emails dispatched"


def test_ledger_has_what_is_there(banking: TenantUnderTest) -> None:
    ledger = status(banking.newest())["allocations"]
    assert {row["state"] for row in ledger} == {"Allocated"}
    outside = {"PostgresDatabase": banking.databases(), "PostgresRole": banking.roles()}
    for kind, found in outside.items():
        assert sorted(row["name"] for row in ledger if row["kind"] == kind) == sorted(found)
    for row in ledger:
        if not row["kind"].startswith(("Postgres", "Namespace", "WorkloadSet")):
            banking.object(row["kind"], row["name"])
    assert condition(banking.newest(), "ResourcesHeld")["status"] == "True"


def test_every_version_of_the_conditions_is_sound(both: list[TenantUnderTest]) -> None:
    """What kstatus and the API conventions promise holds in each version that anyone could have seen."""
    for tenant in both:
        previous: dict[str, Object] = {}
        for version in tenant.versions:
            conditions = {each["type"]: each for each in status(version).get("conditions", [])}
            _is_sound(version, conditions, previous)
            previous = conditions
        assert {type_: each["status"] for type_, each in previous.items()} == dict.fromkeys(
            (
                *("Ready", "Validated", "ResourcesAllocated", "SchemaApplied", "WorkloadsDeployed", "WorkloadsReady"),
                *("TrafficEnabled", "WelcomeEmailsSent", "ResourcesHeld"),
            ),
            "True",
        )


def _is_sound(version: Object, conditions: dict[str, Object], previous: dict[str, Object]) -> None:
    now = status(version)
    if not conditions:
        return
    assert len(conditions) == len(now["conditions"]), "a type is there twice"
    assert (conditions["Ready"]["status"] == "True") == (now["state"] == "Active")
    assert not {"Reconciling", "Stalled"} <= conditions.keys()
    assert {each["status"] for type_, each in conditions.items() if type_ in ("Reconciling", "Stalled")} <= {"True"}
    assert ("Reconciling" in conditions) == (now["state"] == "Provisioning")
    assert now["observedGeneration"] == version["metadata"]["generation"]
    for type_, each in conditions.items():
        assert each["reason"]
        assert each["observedGeneration"] == now["observedGeneration"]
        before = previous.get(type_)
        if before is not None and before["status"] == each["status"]:
            assert each["lastTransitionTime"] == before["lastTransitionTime"]


def test_route_opens_last(banking: TenantUnderTest) -> None:
    """While the tenant is being made its traffic is said to be off, and its state says so too."""
    states = [status(version).get("state") for version in banking.versions]
    assert list(dict.fromkeys(state for state in states if state)) == ["Provisioning", "Active"]
    for version in banking.versions:
        if status(version).get("state") == "Provisioning":
            assert condition(version, "TrafficEnabled")["status"] == "False"


def test_no_secret_shows_anywhere(world: World, both: list[TenantUnderTest]) -> None:
    """Neither in any version of the Tenant, nor in Events, audit feed, emails or log."""
    (admin_password,) = {psycopg.conninfo.conninfo_to_dict(world.platform.database_url)["password"]}
    for tenant in both:
        storage, identity = tenant.secret("database-credentials"), tenant.secret("identity-credentials")
        key = tenant.secret("identity-signing-key")["private-key.pem"].splitlines()[1]
        secrets = [storage["password"], identity["password"], key, str(admin_password)]
        assert min(map(len, secrets)) > 15
        shown = {
            "the Tenant": json.dumps(tenant.versions),
            "the Events": json.dumps(tenant.events()),
            "the audit feed": json.dumps(world.audit()),
            "the emails": "".join(mail.as_string() for mail in tenant.mails()),
            "the log": world.operator.output(),
        }
        for place, text in shown.items():
            assert text
            assert not [secret for secret in secrets if secret in text], f"a secret is in {place}"


def test_active_tenant_costs_nothing(world: World, banking: TenantUnderTest) -> None:
    """What another tenant goes through is no reason to write to this one."""
    before = banking.newest()["metadata"]["resourceVersion"]
    world.tenant("neighbour").settles("Active")
    assert banking.newest()["metadata"]["resourceVersion"] == before


def test_delete_releases_everything(world: World) -> None:
    tenant = world.tenant("shortlived", "standard")
    tenant.settles("Active")
    assert tenant.newest()["metadata"]["finalizers"] == ["intelliauth.io/release"]
    tenant.delete()
    assert world.read("tenant", tenant.name, catalog.NAMESPACE) is None
    tenant.holds_nothing()
    types = [event["type"] for event in until(lambda: _told_its_end(tenant), "the feed tells the end")]
    ended = types[types.index("tenant.deprovisioning.started") :]
    assert ended[-2:] == ["tenant.deprovisioning.completed", "tenant.deleted"]
    assert types.count("tenant.deleted") == 1
    released = [event["data"]["step"] for event in tenant.told("tenant.deprovisioning.step_completed")]
    assert released == [str(each) for each in reversed(ActivityName) if each in released]
    assert {"mark-active", "deploy-workloads", *ALLOCATING} <= set(released)
    assert len(tenant.mails()) == 3


def test_delete_while_it_is_being_made(world: World) -> None:
    """The run is cancelled, and released like any other."""
    tenant = world.tenant("unborn", "endless")
    tenant.runs("wait-ready")
    closed = tenant.object("ingress", "tenant")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert closed["name"] == "paused"
    tenant.delete()
    assert world.read("tenant", tenant.name, catalog.NAMESPACE) is None
    tenant.holds_nothing()
    feed = until(lambda: _told_its_end(tenant), "the feed tells the end")
    assert "tenant.provisioning.failed" not in [event["type"] for event in feed]
    assert tenant.told("tenant.provisioning.compensated")
    assert tenant.mails() == []


def _told_its_end(tenant: TenantUnderTest) -> list[Object]:
    feed = tenant.feed()
    return feed if feed[-1]["type"] == "tenant.deleted" else []


def test_slug_is_free_again(world: World) -> None:
    """A tenant of the same name is a new one: nothing is carried over."""
    first = world.tenant("again")
    first.settles("Active")
    password = first.secret("database-credentials")["password"]
    first.delete()
    world.apply(catalog.tenant("again", "small"))
    second = TenantUnderTest(world, world.read("tenant", "again", catalog.NAMESPACE) or {})
    world.applied.append(second)
    assert second.uid != first.uid
    second.wait(lambda tenant: tenant["metadata"]["uid"] == second.uid, "the new one is known")
    second.settles("Active")
    assert second.namespaces() == [second.namespace]
    assert second.secret("database-credentials")["password"] != password
    first.holds_nothing()
