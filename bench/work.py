"""What has to be made for a tenant, rendered before the clock starts: by the product's own functions, so that it is the
same as what the operator makes."""

import json
from base64 import b64encode
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import yaml

from devcluster.cluster import Environment
from devcluster.platform import SAMPLES
from tenant_operator.api.plan import Plan
from tenant_operator.ports import Endpoint
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.mail import Email, Facts, Templates
from tenant_operator.provisioning.migration_files import load_migrations
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options

PLAN: Final = "enterprise"
"""The sample plan that has no limit of tenants."""
INSTANTLY: Final = {"minReadySeconds": 0}
"""What is changed of it: with the default, everybody would wait for ten seconds and do nothing."""
ORGANIZATION: Final = "cymmetri"
TENANTS: Final = f"/apis/intelliauth.io/v1alpha1/namespaces/{ORGANIZATION}/tenants"
BASE_DOMAIN: Final = "tenants.example"
"""The operator's, on a development cluster."""
COLLECTIONS: Final = {
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "LimitRange": "/api/v1/namespaces/{}/limitranges",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}
"""Where the API server has the objects of a kind, in a namespace."""

_PASSWORD_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Piece:
    """One tenant's share of the work. `objects` in the order in which they are applied, the namespace first; `opening`
    is the route, opened; `deployments` have to be ready before that."""

    namespace: str
    objects: list[dict[str, Any]]
    opening: dict[str, Any]
    deployments: int
    database: str
    owner: str
    identity: str
    password: str
    connection_limit: int
    mails: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Work:
    """What the floor is given: where to do it, and the pieces."""

    server: str
    authority: str
    token: str
    database_url: str
    smtp: tuple[str, int]
    migrations: list[str]
    concurrency: int
    pieces: list[Piece]

    def write(self, file: Path) -> None:
        """As JSON, for the process of the floor."""
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "Work":
        """What `write` wrote."""
        raw = json.loads(file.read_text())
        raw["pieces"] = [Piece(**each) for each in raw["pieces"]]
        raw["smtp"] = tuple(raw["smtp"])
        return cls(**raw)


def manifest(name: str) -> dict[str, Any]:
    """The Tenant that the operator is given for the same."""
    spec = {"organization": ORGANIZATION, "plan": PLAN, "admin": {"email": f"admin@{name}.example"}}
    return {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name, "namespace": ORGANIZATION},
        "spec": spec,
    }


def prepare(environment: Environment, kubeconfig: dict[str, Any], names: list[str], *, concurrency: int) -> Work:
    """The floor's work for tenants of these names."""
    (cluster,), (user,) = kubeconfig["clusters"], kubeconfig["users"]
    plans = yaml.safe_load_all((SAMPLES / "plans.yaml").read_text(encoding="utf-8"))
    sample = next(each for each in plans if each["metadata"]["name"] == PLAN)
    plan = Plan.model_validate({**sample, "spec": {**sample["spec"], **INSTANTLY}})
    return Work(
        server=cluster["cluster"]["server"],
        authority=cluster["cluster"]["certificate-authority-data"],
        token=user["user"]["token"],
        database_url=environment.database_url,
        smtp=(environment.smtp_host, environment.smtp_port),
        migrations=[each.sql for each in load_migrations()],
        concurrency=concurrency,
        pieces=[_piece(name, plan) for name in names],
    )


def _piece(name: str, plan: Plan) -> Piece:
    uid, options = str(uuid4()), Options()
    names = Names(name, ORGANIZATION, ORGANIZATION, uid, BASE_DOMAIN)
    database = Endpoint("127.0.0.1", 5432)
    secrets = [_secret(names, each) for each in (names.database_secret, names.identity_secret, names.signing_secret)]
    metadata = {"name": names.jwks, "namespace": names.namespace, "labels": names.labels()}
    jwks = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"jwks.json": "{}"}}
    workloads = manifests.workloads(names, plan)
    closed = route.manifests(names, options, plan, is_open=False)
    facts = Facts(name, ORGANIZATION, PLAN, names.url, names.url, "support@example.com")
    mails = [Templates().render(each, facts, key=f"{uid}-{each}", recipient=f"admin@{name}.example") for each in Email]
    return Piece(
        namespace=names.namespace,
        objects=[
            *manifests.namespace(names, plan),
            *secrets,
            jwks,
            *manifests.network_policies(names, options, plan, database=database),
            *closed,
            *workloads,
        ],
        opening=route.manifests(names, options, plan, is_open=True)[0],
        deployments=sum(each["kind"] == "Deployment" for each in workloads),
        database=names.database,
        owner=names.database_role,
        identity=names.identity_role,
        password=uuid4().hex,
        connection_limit=plan.spec.storage.connection_limit,
        mails=[{"recipient": each.recipient, "subject": each.subject, "text": each.text} for each in mails],
    )


def _secret(names: Names, name: str) -> dict[str, Any]:
    """A Secret of the size that the operator's have."""
    content = {key: b64encode(b"x" * _PASSWORD_BYTES).decode() for key in ("host", "port", "database", "password")}
    content["uri"] = b64encode(b"x" * 4 * _PASSWORD_BYTES).decode()
    metadata = {"name": name, "namespace": names.namespace, "labels": names.labels()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": content}
