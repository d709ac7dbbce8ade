"""Where the API server keeps each kind that a tenant can be made of."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from tenant_operator.ports import Manifest, ObjectRef
from tenant_operator.saga.errors import Rejected


@dataclass(frozen=True, slots=True)
class Resource:
    """The plural of a kind in paths, and whether its objects live in a namespace."""

    plural: str
    namespaced: bool = True


_RESOURCES: Final = {
    ("", "ConfigMap"): Resource("configmaps"),
    ("", "LimitRange"): Resource("limitranges"),
    ("", "Namespace"): Resource("namespaces", namespaced=False),
    ("", "PersistentVolumeClaim"): Resource("persistentvolumeclaims"),
    ("", "Pod"): Resource("pods"),
    ("", "ResourceQuota"): Resource("resourcequotas"),
    ("", "Secret"): Resource("secrets"),
    ("", "Service"): Resource("services"),
    ("", "ServiceAccount"): Resource("serviceaccounts"),
    ("apps", "DaemonSet"): Resource("daemonsets"),
    ("apps", "Deployment"): Resource("deployments"),
    ("apps", "ReplicaSet"): Resource("replicasets"),
    ("apps", "StatefulSet"): Resource("statefulsets"),
    ("autoscaling", "HorizontalPodAutoscaler"): Resource("horizontalpodautoscalers"),
    ("batch", "CronJob"): Resource("cronjobs"),
    ("batch", "Job"): Resource("jobs"),
    ("events.k8s.io", "Event"): Resource("events"),
    ("gateway.networking.k8s.io", "HTTPRoute"): Resource("httproutes"),
    ("gateway.networking.k8s.io", "ReferenceGrant"): Resource("referencegrants"),
    ("networking.k8s.io", "Ingress"): Resource("ingresses"),
    ("networking.k8s.io", "NetworkPolicy"): Resource("networkpolicies"),
    ("policy", "PodDisruptionBudget"): Resource("poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "Role"): Resource("roles"),
    ("rbac.authorization.k8s.io", "RoleBinding"): Resource("rolebindings"),
}


def resource(api_version: str, kind: str) -> Resource:
    """How a kind is served. A kind outside the table raises Rejected."""
    group = api_version.rpartition("/")[0]
    try:
        return _RESOURCES[group, kind]
    except KeyError:
        raise Rejected(f"{kind} of {api_version} is not a kind that a tenant can be made of") from None


def collection_path(api_version: str, kind: str, namespace: str | None) -> str:
    """The path of the objects of a kind, in a namespace if they live in one."""
    served = resource(api_version, kind)
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    if not served.namespaced:
        return f"{root}/{served.plural}"
    if not namespace:
        raise Rejected(f"{kind}: metadata.namespace is missing")
    return f"{root}/namespaces/{quote(namespace, safe='')}/{served.plural}"


def object_path(ref: ObjectRef) -> str:
    """The path of one object."""
    return f"{collection_path(ref.api_version, ref.kind, ref.namespace)}/{quote(ref.name, safe='')}"


def ref_of(manifest: Manifest) -> ObjectRef:
    """What a manifest names. One that lacks apiVersion, kind or name raises Rejected."""
    metadata = manifest.get("metadata") or {}
    api_version, kind, name = manifest.get("apiVersion"), manifest.get("kind"), metadata.get("name")
    for field, value in (("apiVersion", api_version), ("kind", kind), ("metadata.name", name)):
        if not isinstance(value, str) or not value:
            raise Rejected(f"{kind or 'object'} {name or ''}: {field} is missing")
    namespace = metadata.get("namespace") if resource(str(api_version), str(kind)).namespaced else None
    return ObjectRef(str(api_version), str(kind), str(name), namespace)
