"""Looks at the cluster, the database, the mails and the audit feed, and tells whether a tenant is what it should be."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from devcluster.audit import read_events
from devcluster.cluster import Environment
from devcluster.mailbox import read_mails
from devcluster.platform import Operator, PlatformError, kubectl, read
from devcluster.tenants import Tenant, condition, state

_TENANT_UID = "intelliauth.io/tenant-uid"
_HELD = Counter(
    {
        "Namespace": 1,
        "PostgresDatabase": 1,
        "PostgresRole": 2,
        "PostgresSchema": 1,
        "Secret": 3,
        "ConfigMap": 1,
        "NetworkPolicy": 3,
        "Ingress": 1,
        "Service": 1,
        "WorkloadSet": 1,
    }
)
_OUTSIDE_KUBERNETES = ("PostgresDatabase", "PostgresRole", "PostgresSchema", "WorkloadSet")
_TIMEOUT_SLACK_SECONDS = 10.0


@dataclass(frozen=True)
class Finding:
    """What should hold, and what is wrong with it (empty if nothing is)."""

    claim: str
    problem: str


class _Wrong(Exception):
    """What was looked at is not as it should be."""


def _expect(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise _Wrong(f"{what} is {actual!r}, not {expected!r}")


def _check(claim: str, look: Callable[[], object]) -> Finding:
    try:
        look()
    except (_Wrong, PlatformError, psycopg.Error) as error:
        return Finding(claim, str(error).strip())
    except (KeyError, IndexError, TypeError) as error:
        return Finding(claim, f"not there or malformed: {error!r}")
    return Finding(claim, "")


class Inspection:
    """One tenant, as it is now, in one environment."""

    def __init__(self, environment: Environment, operator: Operator, tenant: Tenant) -> None:
        self._environment = environment
        self._tenant = tenant
        self._uid = str(tenant["metadata"]["uid"])
        self._status = tenant["status"]
        self._feed = [event for event in read_events(operator.audit) if event["tenant_id"] == self._uid]

    def provisioned(self) -> Iterator[Finding]:
        """What holds of a tenant whose run completed."""
        desired = self._tenant["spec"]["desiredState"]
        yield _check(f"is {desired}", lambda: self._is_in(desired))
        yield _check("holds what its ledger says, all of it allocated", self._holds_its_ledger)
        yield _check("has a namespace of its own, restricted and with a quota", self._has_a_namespace)
        yield _check("gets into its database with the credentials of its Secret", self._gets_into_its_database)
        yield _check("finds the identity schema's tables there", self._finds_its_tables)
        yield _check("publishes the key that it signs with", self._publishes_its_key)
        yield _check("has NetworkPolicies that deny by default", self._denies_by_default)
        yield _check(f"has its route {'open' if desired == 'Active' else 'closed'}", self._has_its_route)
        yield _check("has the workloads of its plan, all available", self._has_its_workloads)
        yield _check("wrote three emails to its first admin", self._wrote_three_emails)
        yield _check("has its whole story in the audit feed, each event once", self._told_its_provisioning)

    def rolled_back(self, failed_activity: str, cause: str) -> Iterator[Finding]:
        """What holds of a tenant whose ``failed_activity`` ran into its timeout because of ``cause``."""
        yield _check(f"is Failed, at {failed_activity}", lambda: self._failed_at(failed_activity))
        yield _check("failed within the timeout of its plan", lambda: self._failed_in_time(failed_activity))
        yield _check(f"says why: {cause}", lambda: self._says_why(cause))
        yield _check("holds nothing: its ledger is empty", self._holds_nothing)
        yield _check("left no namespace behind", self._left_no_namespace)
        yield _check("left no database and no role behind", self._left_nothing_in_postgres)
        yield _check("was rolled back last step first, each step once", self._was_rolled_back_in_order)
        yield _check("wrote no email", self._wrote_no_email)

    def _is_in(self, desired: str) -> None:
        _expect(state(self._tenant), desired, "status.state")
        ready = "True" if desired == "Active" else None
        _expect(condition(self._tenant, "Ready").get("status"), ready, "condition Ready")
        _expect(self._status["run"]["outcome"], "Completed", "status.run.outcome")

    def _holds_its_ledger(self) -> None:
        rows = self._status["allocations"]
        _expect({row["state"] for row in rows}, {"Allocated"}, "the states in the ledger")
        _expect(Counter(row["kind"] for row in rows), _HELD, "what the ledger has of each kind")
        for row in rows:
            if row["kind"] not in _OUTSIDE_KUBERNETES:
                self._object(row["kind"], row["name"], row.get("namespace"))

    def _has_a_namespace(self) -> None:
        labels = self._object("Namespace", self._namespace)["metadata"]["labels"]
        _expect(labels[_TENANT_UID], self._uid, f"label {_TENANT_UID}")
        _expect(labels["pod-security.kubernetes.io/enforce"], "restricted", "the Pod Security level")
        quota = self._object("ResourceQuota", "tenant-quota", self._namespace)
        _expect(quota["spec"]["hard"], self._plan["spec"]["quota"], "the quota")

    def _gets_into_its_database(self) -> None:
        credentials = self._secret("database-credentials")
        with psycopg.connect(credentials["uri"], connect_timeout=5) as connection:
            row = connection.execute("SELECT current_database(), current_user").fetchone()
        _expect(row, (credentials["database"], credentials["username"]), "database and user")

    def _finds_its_tables(self) -> None:
        credentials = self._secret("identity-credentials")
        query = (
            "SELECT count(*) FROM pg_class AS it WHERE it.relnamespace = to_regnamespace(%s) AND it.relkind = 'r' "
            "AND has_table_privilege(it.oid, 'INSERT')"
        )
        with psycopg.connect(credentials["uri"], connect_timeout=5) as connection:
            row = connection.execute(query, [credentials["schema"]]).fetchone()
        if row is None or not row[0]:
            raise _Wrong(f"schema {credentials['schema']} has no tables that {credentials['username']} may write")

    def _publishes_its_key(self) -> None:
        secret = self._secret("identity-signing-key")
        if "PRIVATE KEY" not in secret["private-key.pem"]:
            raise _Wrong("Secret identity-signing-key holds no private key")
        published = json.loads(self._object("ConfigMap", "identity-jwks", self._namespace)["data"]["jwks.json"])
        _expect([key["kid"] for key in published["keys"]], [secret["kid"]], "the published key")

    def _denies_by_default(self) -> None:
        policy = self._object("NetworkPolicy", "default-deny", self._namespace)["spec"]
        _expect((policy["podSelector"], policy["policyTypes"]), ({}, ["Ingress", "Egress"]), "policy default-deny")

    def _has_its_route(self) -> None:
        (rule,) = self._object("Ingress", "tenant", self._namespace)["spec"]["rules"]
        _expect(f"https://{rule['host']}", self._status["url"], "the host of the route")
        routed = next(each["name"] for each in self._plan["spec"]["workloads"] if each.get("route"))
        opened = self._tenant["spec"]["desiredState"] == "Active"
        service = rule["http"]["paths"][0]["backend"]["service"]["name"]
        _expect(service, routed if opened else "paused", "the backend of the route")
        _expect(condition(self._tenant, "TrafficEnabled").get("status"), str(opened), "condition TrafficEnabled")

    def _has_its_workloads(self) -> None:
        text = kubectl(self._environment, "get", "deployments", f"--namespace={self._namespace}", "--output=json")
        available = {
            each["metadata"]["name"]: each["status"].get("availableReplicas", 0) for each in json.loads(text)["items"]
        }
        wanted = {each["name"]: each.get("replicas", 1) for each in self._plan["spec"]["workloads"]}
        _expect(available, wanted, "the available replicas")

    def _wrote_three_emails(self) -> None:
        mails = self._mails()
        _expect(len(mails), 3, "the number of emails")
        _expect(len({mail["Message-ID"] for mail in mails}), 3, "the number of Message-IDs")
        _expect(len({mail["Subject"] for mail in mails}), 3, "the number of subjects")

    def _told_its_provisioning(self) -> None:
        self._told_each_event_once()
        types = Counter(event["type"] for event in self._feed)
        _expect(self._feed[0]["type"], "tenant.provisioning.started", "the first event")
        _expect(types["tenant.provisioning.started"], 1, "the number of starts")
        _expect(types["tenant.provisioning.completed"], 1, "the number of completions")
        steps = [e["data"]["step"] for e in self._feed if e["type"] == "tenant.provisioning.step_completed"]
        _expect(list(dict.fromkeys(steps)), self._activities(), "the order of the completed steps")

    def _failed_at(self, activity: str) -> None:
        _expect(state(self._tenant), "Failed", "status.state")
        _expect(self._status["run"]["failedActivity"], activity, "status.run.failedActivity")
        _expect(condition(self._tenant, "Stalled").get("status"), "True", "condition Stalled")

    def _failed_in_time(self, activity: str) -> None:
        failed_at = next(each["at"] for each in self._status["errors"][::-1] if each["activity"] == activity)
        # It begins in the same write in which the one before it ends.
        began = [each["created_at"] for each in self._feed if each["type"] == "tenant.provisioning.step_completed"][-1]
        took = (datetime.fromisoformat(failed_at) - datetime.fromisoformat(began)).total_seconds()
        timeout = float(self._plan["spec"]["timeouts"][activity].removesuffix("s"))
        if not timeout <= took <= timeout + _TIMEOUT_SLACK_SECONDS:
            raise _Wrong(f"it failed after {took:.1f} s; {activity} has {timeout:g} s")

    def _says_why(self, cause: str) -> None:
        for where, message in (
            ("status.run.error", self._status["run"]["error"]),
            ("condition Ready", condition(self._tenant, "Ready").get("message")),
            ("the last event of the audit feed", self._feed[-1]["data"].get("error")),
        ):
            if cause not in str(message):
                raise _Wrong(f"{where} says: {message}")

    def _holds_nothing(self) -> None:
        _expect(self._status.get("allocations", []), [], "the ledger")
        _expect(condition(self._tenant, "ResourcesHeld").get("status"), "False", "condition ResourcesHeld")

    def _left_no_namespace(self) -> None:
        selector = f"--selector={_TENANT_UID}={self._uid}"
        _expect(kubectl(self._environment, "get", "namespaces", selector, "--output=name"), "", "what is left")

    def _left_nothing_in_postgres(self) -> None:
        mine = f"%{self._uid.replace('-', '')[:12]}%"
        query = (
            "SELECT datname FROM pg_database WHERE datname LIKE %s "
            "UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE %s"
        )
        with psycopg.connect(self._environment.database_url, connect_timeout=5) as connection:
            _expect([row[0] for row in connection.execute(query, [mine, mine])], [], "what is left")

    def _was_rolled_back_in_order(self) -> None:
        self._told_each_event_once()
        compensated = [e["data"]["step"] for e in self._feed if e["type"] == "tenant.provisioning.compensated"]
        started = [row["activity"] for row in self._status["timeline"] if row["state"] != "Pending"]
        _expect(compensated, started[::-1], "the order of the compensated steps")
        _expect({row["state"] for row in self._status["timeline"]}, {"Compensated", "Pending"}, "the timeline")
        _expect(self._feed[-1]["type"], "tenant.provisioning.failed", "the last event")

    def _wrote_no_email(self) -> None:
        _expect(len(self._mails()), 0, "the number of emails")

    def _told_each_event_once(self) -> None:
        ids = [event["id"] for event in self._feed]
        _expect(len(set(ids)), len(ids), "the number of distinct events")

    @property
    def _namespace(self) -> str:
        names = [str(row["name"]) for row in self._status["allocations"] if row["kind"] == "Namespace"]
        if len(names) != 1:
            raise _Wrong(f"the ledger has {len(names)} namespaces")
        return names[0]

    @property
    def _plan(self) -> dict[str, Any]:
        return self._object("plan", self._tenant["spec"]["plan"])

    def _activities(self) -> list[str]:
        return [row["activity"] for row in self._status["timeline"]]

    def _mails(self) -> list[Any]:
        """The mails to the tenant's admin."""
        admin = self._tenant["spec"]["admin"]["email"]
        mails = read_mails(self._environment.mail_folder)
        return [mail for mail in mails if admin in mail.get_all("X-Envelope-To", [])]

    def _object(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        found = read(self._environment, kind, name, namespace)
        if found is None:
            raise _Wrong(f"{kind} {name} does not exist")
        return found

    def _secret(self, name: str) -> dict[str, str]:
        data = self._object("Secret", name, self._namespace)["data"]
        return {key: b64decode(value).decode() for key, value in data.items()}
