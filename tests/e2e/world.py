"""What the tests do and look at, in the words of the tests: kubectl, PostgreSQL, the mails and the audit feed."""

import json
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

import psycopg

from devcluster import Environment, platform
from devcluster.audit import read_events
from devcluster.mailbox import read_mails
from tenant_operator.api.names import LABEL_TENANT_UID
from tests.e2e import catalog
from tests.e2e.feed import Object, TenantFeed, Version
from tests.e2e.operator_process import Operator
from tests.e2e.waiting import until

Event = dict[str, Any]

_KUBECTL_SECONDS = 960.0
_AT_ONCE = 25
"""Objects that one kubectl applies, one after the other."""
_DELETE_TIMEOUT = "--timeout=900s"


@dataclass(frozen=True)
class Answer:
    """How kubectl ended, and what it said."""

    code: int
    out: str
    err: str


@dataclass
class World:
    """One cluster with one operator in it, and everything that the operator touches."""

    platform: Environment
    feed: TenantFeed
    operator: Operator
    applied: list["TenantUnderTest"] = field(default_factory=list)

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl and return what it prints; AssertionError if it refuses."""
        answer = self.ask(*arguments)
        assert answer.code == 0, f"kubectl {' '.join(arguments)}: {answer.err}"
        return answer.out

    def ask(self, *arguments: str, stdin: str = "") -> Answer:
        """Run kubectl, whatever comes of it."""
        command = [str(self.platform.kubectl), f"--kubeconfig={self.platform.kubeconfig}", *arguments]
        done = subprocess.run(  # noqa: S603
            command, input=stdin, capture_output=True, text=True, timeout=_KUBECTL_SECONDS, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def apply(self, *manifests: Object) -> None:
        """`kubectl apply` of all at once."""
        documents = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        answer = self.ask("apply", "--filename=-", stdin=documents)
        assert answer.code == 0, answer.err

    def offer(self, *plans: Object) -> None:
        """`kubectl apply` of plans; returns once the operator knows them, whatever its watch of Tenants tells first."""
        self.apply(*plans)
        for name in (each["metadata"]["name"] for each in plans):
            until(lambda name=name: self._is_seen(name), f"the operator knows plan {name}", 90)  # type: ignore[misc]

    def _is_seen(self, plan_name: str) -> bool:
        plan = self.read("plan", plan_name) or {"metadata": {}}
        return bool(plan.get("status", {}).get("observedGeneration") == plan["metadata"].get("generation"))

    def read(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """One object, or None."""
        return platform.read(self.platform, kind, name, namespace)

    def listed(self, kind: str, *options: str) -> list[Object]:
        """All objects of a kind that the options select."""
        items: list[Object] = json.loads(self.kubectl("get", kind, *options, "--output=json"))["items"]
        return items

    def tenant(self, name: str, plan: str = "small", **spec: Any) -> "TenantUnderTest":
        """Apply a Tenant, and wait until the cluster has told of it."""
        (one,) = self.tenants([name], plan, **spec)
        return one

    def tenants(self, names: Sequence[str], plan: str = "small", **spec: Any) -> list["TenantUnderTest"]:
        """Apply many Tenants in one go."""
        manifests = [catalog.tenant(name, plan, **spec) for name in names]
        chunks = [manifests[start : start + _AT_ONCE] for start in range(0, len(manifests), _AT_ONCE)]
        with ThreadPoolExecutor(len(chunks)) as pool:
            list(pool.map(lambda chunk: self.apply(*chunk), chunks))
        # The feed may still have others of these names.
        uids = {each["metadata"]["uid"] for each in self.listed("tenants", f"--namespace={catalog.NAMESPACE}")}
        keys = [(catalog.NAMESPACE, name) for name in names]
        heard = self.feed.wait_all(keys, lambda each: each["metadata"]["uid"] in uids, "the Tenants are known", 240)
        new = [TenantUnderTest(self, version.tenant) for version in heard]
        self.applied.extend(new)
        return new

    def delete(self, tenants: Sequence["TenantUnderTest"], *, wait: bool = True) -> None:
        """`kubectl delete`; with `wait` it returns once the records are gone."""
        names = [each.name for each in tenants]
        where = f"--namespace={catalog.NAMESPACE}"
        self.kubectl("delete", "tenant", *names, where, "--ignore-not-found", f"--wait={wait}".lower(), _DELETE_TIMEOUT)

    @contextmanager
    def kept_namespaces(self, *tenants: "TenantUnderTest") -> Iterator[None]:
        """As long as this lasts, the tenants' namespaces can be deleted but are not gone: something is not let go."""

        def keepers(*finalizers: str) -> list[Object]:
            metadata = [{"name": "kept", "namespace": each.namespace, "finalizers": finalizers} for each in tenants]
            return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": each} for each in metadata]

        self.apply(*keepers("tests.example/kept"))
        try:
            yield
        finally:
            self.apply(*keepers())

    def clean_up(self) -> None:
        """Have every Tenant deleted that was applied since the last time."""
        if not self.operator.is_running:  # a test failed while it was down: the next one shall find it
            self.operator.start()
        applied, self.applied = self.applied, []
        if applied:
            self.delete(applied, wait=False)

    def is_clean(self) -> None:
        """Returns once no Tenant is left; then nothing that was made for one may be left."""
        self.kubectl("delete", "tenants", "--all", f"--namespace={catalog.NAMESPACE}", _DELETE_TIMEOUT)
        assert self.listed("namespaces", f"--selector={LABEL_TENANT_UID}") == []
        assert self.stored() == []

    def stored(self) -> list[tuple[str, str]]:
        """Kind and name of every database and role that is a tenant's."""
        databases = "SELECT 'PostgresDatabase', datname FROM pg_database WHERE datname ~ %s"
        roles = "SELECT 'PostgresRole', rolname FROM pg_roles WHERE rolname ~ %s"
        found = self.query(f"{databases} UNION ALL {roles}", *[r"^tenant_[0-9a-f]{32}(_id)?$"] * 2)
        return [(kind, name) for kind, name in found]

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL as its administrator."""
        with psycopg.connect(self.platform.database_url, connect_timeout=5, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def audit(self) -> list[Event]:
        """The whole audit feed."""
        return read_events(self.operator.audit)


class TenantUnderTest:
    """One Tenant, and whatever there is of it anywhere."""

    def __init__(self, world: World, tenant: Object) -> None:
        self._world = world
        self.name: str = tenant["metadata"]["name"]
        self.uid: str = tenant["metadata"]["uid"]
        self.key = (catalog.NAMESPACE, self.name)
        self.host = f"{self.name}-{catalog.ORGANIZATION}.tenants.example"
        self.namespace = f"tenant-{self.name}-{catalog.ORGANIZATION}"
        self.database = f"tenant_{self.uid.replace('-', '')}"
        self.where = f"--namespace={catalog.NAMESPACE}"

    # What is asked of it.

    def act(self, action: str) -> None:
        """Make a one-shot request, as a person would."""
        self._world.kubectl("annotate", "tenant", self.name, self.where, f"intelliauth.io/action={action}")

    def delete(self) -> None:
        self._world.delete([self])

    # What it says.

    def wait(self, holds: Callable[[Object], bool], what: str, seconds: float = 90.0) -> Version:
        return self._world.feed.wait(self.key, holds, f"{self.name}: {what}", seconds)

    def settles(self, state: str, seconds: float = 120.0) -> Object:
        """The status once it is in that state, nothing runs, and the audit feed has all of it."""
        return status(self.wait(lambda tenant: settled(tenant, state), f"settles in {state}", seconds).tenant)

    def runs(self, activity: str, seconds: float = 90.0) -> Object:
        """The status once the activity is in hand."""

        def holds(tenant: Object) -> bool:
            return any(row["activity"] == activity and row["state"] == "Running" for row in timeline(tenant))

        return status(self.wait(holds, f"runs {activity}", seconds).tenant)

    def answer(self, action: str, outcome: str, *, not_id: str = "") -> Object:
        """`status.lastAction` once it tells the outcome of the request."""

        def holds(tenant: Object) -> bool:
            last = status(tenant).get("lastAction") or {}
            return bool(last) and (last["action"], last["outcome"]) == (action, outcome) and last["id"] != not_id

        last: Object = status(self.wait(holds, f"{action} is {outcome}").tenant)["lastAction"]
        return last

    @property
    def versions(self) -> list[Object]:
        """Every version of it that there ever was."""
        return [version.tenant for version in self._world.feed.versions(self.key)]

    def newest(self) -> Object:
        return self.versions[-1]

    def events(self) -> list[Object]:
        """The Kubernetes Events about it."""
        events = self._world.listed("events.events.k8s.io", self.where)
        return [event for event in events if event["regarding"].get("uid") == self.uid]

    def event(self, reason: str, *, says: str = "", seconds: float = 60.0) -> Object:
        """The Event with that reason, once it is there; it is a Warning if and only if something is wrong."""

        def look() -> list[Object]:
            return [each for each in self.events() if each["reason"] == reason and says in each["note"]]

        return until(look, f"Event {reason} about {self.name}", seconds)[0]

    def feed(self) -> list[Event]:
        """What the audit feed has of it."""
        return [event for event in self._world.audit() if event["tenant_id"] == self.uid]

    def told(self, type_: str) -> list[Event]:
        """The audit events of a type."""
        return [event for event in self.feed() if event["type"] == type_]

    def mails(self) -> list[EmailMessage]:
        """What its first admin received, in order."""
        mails = read_mails(self._world.platform.mail_folder)
        return [mail for mail in mails if f"admin@{self.name}.example" in mail.get_all("X-Envelope-To", [])]

    # What there is of it.

    def object(self, kind: str, name: str) -> Object:
        """An object in its namespace."""
        found = self._world.read(kind, name, self.namespace)
        assert found is not None, f"{kind} {self.namespace}/{name} does not exist"
        return found

    def names(self, kind: str) -> set[str]:
        """The names of the objects of a kind in its namespace."""
        found = self._world.listed(kind, f"--namespace={self.namespace}")
        return {each["metadata"]["name"] for each in found}

    def secret(self, name: str) -> dict[str, str]:
        data: Mapping[str, str] = self.object("secret", name)["data"]
        return {key: b64decode(value).decode() for key, value in data.items()}

    def databases(self) -> list[str]:
        return [
            row[0] for row in self._world.query("SELECT datname FROM pg_database WHERE datname LIKE %s", self._like)
        ]

    def roles(self) -> list[str]:
        return [row[0] for row in self._world.query("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", self._like)]

    def namespaces(self) -> list[str]:
        found = self._world.listed("namespaces", f"--selector={LABEL_TENANT_UID}={self.uid}")
        return [each["metadata"]["name"] for each in found]

    def holds_nothing(self) -> None:
        """Nothing is left of it but, perhaps, its record."""
        assert (self.namespaces(), self.databases(), self.roles()) == ([], [], [])

    @property
    def _like(self) -> str:
        return f"{self.database}%"


def status(tenant: Object) -> Object:
    """The status; empty before the operator has seen the tenant."""
    found: Object = tenant.get("status") or {}
    return found


def timeline(tenant: Object) -> list[Object]:
    rows: list[Object] = status(tenant).get("timeline") or []
    return rows


def is_held_up(tenant: Object, activity: str) -> bool:
    """Whether the activity waits for its next try, or for a server that others have found to be away."""
    rows = (row for row in timeline(tenant) if row["activity"] == activity)
    return any(row.get("nextTryAt") or "out of service since" in row.get("message", "") for row in rows)


def settled(tenant: Object, state: str) -> bool:
    """Whether it is in that state as its spec is now, with nothing running and nothing left to tell."""
    now = status(tenant)
    over = (now.get("run") or {}).get("finishedAt") or not now.get("run")
    is_seen = now.get("observedGeneration") == tenant["metadata"]["generation"]
    return now.get("state") == state and is_seen and bool(over) and not now.get("outbox")


def condition(tenant: Object, type_: str) -> Object:
    """One condition; empty if it is not there."""
    return next((each for each in status(tenant).get("conditions", []) if each["type"] == type_), {})


def has_rolled_out(tenant: Object, workloads_hash: str) -> bool:
    """Whether workloads other than those of the hash are there, complete."""
    now = status(tenant)
    return now["workloadsHash"] != workloads_hash and condition(tenant, "WorkloadsReady").get("status") == "True"


def connect(uri: str, **instead: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """A session at PostgreSQL, with parts of the connection string replaced."""
    return psycopg.connect(uri, connect_timeout=5, autocommit=True, **instead)
