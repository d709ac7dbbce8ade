"""What the operator's account may do in a real cluster: its RBAC, and the policy that says where."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract.helm_cluster import (
    CHART,
    NAMESPACE,
    QUIET,
    RELEASE,
    Cluster,
    Manifest,
    placed,
    until,
)


@pytest.fixture
def cluster(helm_cluster: Cluster) -> Cluster:
    return helm_cluster


def test_the_account_can_do_no_more_than_its_rules_say(cluster: Cluster) -> None:
    cluster.helm("install", RELEASE, str(CHART), *QUIET)

    def may(verb: str, what: str, *more: str) -> bool:
        account = f"--as=system:serviceaccount:{NAMESPACE}:tenant-operator"
        result = cluster.run(str(cluster.environment.kubectl), "auth", "can-i", verb, what, *more, account)
        assert result.stdout.strip() in ("yes", "no"), result.stderr
        return result.stdout.strip() == "yes"

    # The authorizer hears of the roles by a watch.
    until(lambda: may("get", "secret/database-credentials", "--namespace=tenant-a-b"), "the roles are known")
    assert not may("get", "secret/tenant-operator-database", f"--namespace={NAMESPACE}")
    assert not may("list", "secrets", "--namespace=tenant-a-b")
    assert may("create", "rolebindings.rbac.authorization.k8s.io", "--namespace=acme")
    assert may("bind", "clusterrole/intelliauth-owner")
    assert not may("bind", "clusterrole/cluster-admin")
    assert not may("create", "clusterrolebindings")
    assert not may("create", "pods", "--namespace=tenant-a-b")
    assert may("patch", "referencegrants.gateway.networking.k8s.io", f"--namespace={NAMESPACE}")
    assert not may("patch", "referencegrants.gateway.networking.k8s.io", "--namespace=acme")


# What RBAC cannot say: a policy of the API server.


ACCOUNT = f"system:serviceaccount:{NAMESPACE}:tenant-operator"
TENANT, TAKEN, TEAM = "tenant-a-b", "tenant-taken", "shop"
MARKS = {
    "app.kubernetes.io/managed-by": "tenant-operator",
    "intelliauth.io/tenant-uid": "0b7c",
    "pod-security.kubernetes.io/enforce": "restricted",
}
PORTS = [{"port": 80}]
POD = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "web",
                "image": "web:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}
CONTENTS: dict[str, Manifest] = {
    "database-credentials": {"apiVersion": "v1", "kind": "Secret", "stringData": {"uri": "postgresql://"}},
    "identity-jwks": {"apiVersion": "v1", "kind": "ConfigMap", "data": {"jwks.json": "{}"}},
    "tenant-quota": {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "9"}}},
    "tenant-limits": {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]},
    },
    "web": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": PORTS}},
    "worker": {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": POD},
    },
    "budget": {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"maxUnavailable": 1}},
    "default-deny": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}}},
    "tenant": {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
    },
}
"""What a tenant is made of, by name; a route of the Gateway API is named like an Ingress."""
GRANT: Manifest = {
    "apiVersion": "gateway.networking.k8s.io/v1beta1",
    "kind": "ReferenceGrant",
    "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "tenant-a"}],
        "to": [{"group": "", "kind": "Service", "name": "tenant-operator-paused"}],
    },
}
ROUTE = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {"hostnames": ["a.example"]}}


def namespace(name: str, **labels: str | None) -> Manifest:
    kept = {key: value for key, value in {**MARKS, **labels}.items() if value}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": kept}}


def binding(name: str, role: str) -> Manifest:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": TEAM},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "ann"}],
    }


def attacks() -> dict[str, tuple[Manifest, str]]:
    """What the account's rules alone would let it apply, and why it is refused."""
    secret, deployment = CONTENTS["database-credentials"], CONTENTS["worker"]
    token = {
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token",
    }
    unmarked: dict[str, str | None] = dict.fromkeys(MARKS)
    return {
        "a token of kube-system": (placed(secret, "identity-credentials", "kube-system", **token), "is no tenant's"),
        "a token of a tenant": (placed(secret, "database-credentials", TENANT, **token), "not Opaque"),
        **{
            f"{kind} in {where}": (placed(each, name, where), f"namespace {where} is no tenant's")
            for name, each in (*CONTENTS.items(), ("tenant", ROUTE))
            for where in ("kube-system", TAKEN)
            for kind in (each["kind"],)
        },
        "a pod in the release's namespace": (placed(deployment, "web", NAMESPACE), "is no tenant's"),
        "a pod in default": (placed(deployment, "web", "default"), "is no tenant's"),
        "another's address": (
            placed(CONTENTS["web"], "web", TENANT, spec={"ports": PORTS, "externalIPs": ["192.0.2.7"]}),
            "it has externalIPs",
        ),
        "a port of the nodes": (
            placed(CONTENTS["web"], "web", TENANT, spec={"ports": PORTS, "type": "NodePort"}),
            "opens a port of the nodes",
        ),
        "leave to name Secrets": (
            placed(GRANT, "tenant-a", NAMESPACE, spec={**GRANT["spec"], "to": [{"group": "", "kind": "Secret"}]}),
            "let HTTPRoutes name Services",
        ),
        "a namespace with a lax Pod Security": (
            namespace("tenant-new", **{"pod-security.kubernetes.io/enforce-version": "v1.0"}),
            "enforce-version: latest",
        ),
        "a namespace of another name": (namespace("foo"), "is no tenant's"),
        "a namespace without marks": (namespace("tenant-new", **unmarked), "is no tenant's"),
        "a namespace that others would not know": (
            namespace("tenant-new", **{"app.kubernetes.io/managed-by": None}),
            "managed-by=tenant-operator",
        ),
        "a namespace without Pod Security": (
            namespace("tenant-new", **{"pod-security.kubernetes.io/enforce": "privileged"}),
            "enforce=restricted",
        ),
        "a namespace that is there": (namespace(TAKEN), "is no tenant's"),
        "a namespace of the cluster": (namespace("kube-system"), "is no tenant's"),
        "another tenant's": (namespace(TENANT, **{"intelliauth.io/tenant-uid": "1c8d"}), "keep the tenant's UID"),
        "a tenant's without Pod Security": (
            namespace(TENANT, **{"pod-security.kubernetes.io/enforce": "baseline"}),
            "enforce=restricted",
        ),
        "a binding of another name": (binding("mine", "intelliauth-owner"), "each under its own name"),
        "a binding of the operator's role": (binding("intelliauth-owner", "tenant-operator"), "not ClusterRole tenant"),
    }


class Account:
    """kubectl with the token of the operator's ServiceAccount."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._kubeconfig = folder / "account.kubeconfig"
        cluster.write_operator_kubeconfig(self._kubeconfig)

    def asks(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        kubectl = (str(self._cluster.environment.kubectl), f"--kubeconfig={self._kubeconfig}")
        return self._cluster.run(*kubectl, *arguments, stdin=stdin)

    def applies(self, manifest: Manifest, *more: str) -> subprocess.CompletedProcess[str]:
        """As the operator does it."""
        apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=tenant-operator", "--validate=false")
        return self.asks(*apply, "--filename=-", *more, stdin=json.dumps(manifest))

    def tries(self, manifest: Manifest) -> subprocess.CompletedProcess[str]:
        """To write it, without a trace; by the verb that the account's rules do not bind to names."""
        if manifest["kind"] == "RoleBinding":
            return self.asks("create", "--filename=-", "--dry-run=server", stdin=json.dumps(manifest))
        return self.applies(manifest, "--dry-run=server")


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Iterator[Account]:
    """It may do what the chart says, and there are a tenant's namespace, one of such a name, and a team's."""
    unmarked: dict[str, str | None] = dict.fromkeys(MARKS)
    there = yaml.safe_dump_all([namespace(TENANT), namespace(TAKEN, **unmarked), namespace(TEAM, **unmarked)])
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=there)
    cluster.helm("install", RELEASE, str(CHART), *QUIET)
    yield Account(cluster, tmp_path)
    cluster.kubectl("delete", "--filename=-", "--ignore-not-found", stdin=there)


def held(account: Account) -> bool:
    """Whether the API server has taken up the policy; it also says no before it has heard of the account's rights."""
    probe = account.tries(placed(CONTENTS["identity-jwks"], "identity-jwks", NAMESPACE))
    return "ValidatingAdmissionPolicy 'tenant-operator'" in probe.stderr


def test_the_account_writes_only_where_tenants_are(cluster: Cluster, account: Account) -> None:
    until(lambda: held(account), "the policy is in force")
    for what, (manifest, words) in attacks().items():
        refused = account.tries(manifest)
        assert refused.returncode != 0, what
        assert "ValidatingAdmissionPolicy 'tenant-operator'" in refused.stderr, f"{what}: {refused.stderr}"
        assert words in refused.stderr, f"{what}: {refused.stderr}"
    for name in (NAMESPACE, TEAM, TAKEN):
        refused = account.asks("delete", "namespace", name, "--dry-run=server")
        assert f"DELETE of namespaces {name} is not for the operator" in refused.stderr
    cluster.kubectl("create", "configmap", "identity-jwks", f"--namespace={TEAM}")
    refused = account.asks("delete", "configmap", "identity-jwks", f"--namespace={TEAM}")
    assert f"DELETE of configmaps {TEAM}/identity-jwks is not for the operator" in refused.stderr
    # Others are not held to it.
    cluster.kubectl("create", "namespace", "foo", "--dry-run=server")

    cluster.helm("upgrade", RELEASE, str(CHART), *QUIET, "--set=admissionPolicy.enabled=false")
    until(lambda: not held(account), "the policy is not in force")
    for what, (manifest, _) in attacks().items():
        accepted = account.tries(manifest)
        assert accepted.returncode == 0, f"{what} was refused for another reason: {accepted.stderr}"
    assert account.asks("delete", "namespace", TEAM, "--dry-run=server").returncode == 0


def test_the_account_writes_what_tenants_need(cluster: Cluster, account: Account) -> None:
    until(lambda: held(account), "the policy is in force")

    def done(result: subprocess.CompletedProcess[str]) -> None:
        assert result.returncode == 0, result.stderr

    new = "tenant-new"
    # At once, although the API server's own memory of namespaces may lag behind.
    done(account.asks("create", "--filename=-", stdin=json.dumps(namespace(new))))
    contents = [placed(each, name, new) for name, each in (*CONTENTS.items(), ("tenant", ROUTE))]
    for each in (*contents, *contents):
        done(account.applies(each))
    done(account.applies(namespace(new, **{"intelliauth.io/tenant": "new"})))
    # A label that another hand took away.
    cluster.kubectl("label", "namespace", new, "app.kubernetes.io/managed-by-")
    done(account.applies(namespace(new)))
    for role in ("owner", "admin", "viewer"):
        name = f"intelliauth-{role}"
        done(account.applies(binding(name, name)))
        done(account.asks("delete", "rolebinding", name, f"--namespace={TEAM}"))

    # A namespace that goes is held up by something in it; what is in it may be deleted still.
    held_up = json.dumps({"metadata": {"finalizers": ["test.example/held"]}})
    config = ("configmap", "identity-jwks", f"--namespace={new}")
    cluster.kubectl("patch", *config, f"--patch={held_up}")
    done(account.asks("delete", "namespace", new, "--wait=false"))
    done(account.asks("delete", *config, "--wait=false"))
    done(account.asks("delete", "deployment", "worker", f"--namespace={new}", "--ignore-not-found", "--wait=false"))
    cluster.kubectl("patch", *config, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    cluster.kubectl("wait", f"namespace/{new}", "--for=delete", "--timeout=60s")


def test_the_policy_is_free_of_warnings(cluster: Cluster) -> None:
    cluster.helm("install", RELEASE, str(CHART), *QUIET)

    def policy() -> Manifest:
        return cluster.read("validatingadmissionpolicy", "tenant-operator")

    until(lambda: "observedGeneration" in policy().get("status", {}), "its expressions have been checked")
    assert not policy()["status"].get("typeChecking", {}).get("expressionWarnings")
