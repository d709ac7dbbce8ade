"""The organisation and the plans of the tests: small, impatient, and each broken plan in one way only."""

from typing import Any

from tenant_operator.api.names import API_VERSION

Object = dict[str, Any]

ORGANIZATION = "acme"
NAMESPACE = "e2e-acme"
FORBIDDEN_PLAN = "not-entitled"
REGION = "eu-1"

BEHAVIOUR = "devcluster/behaviour"
"""Where there is no kubelet, pods play the trouble that this annotation names; elsewhere they run into it."""

_IMPATIENT = {"maxTries": 3, "initialBackoff": "200ms", "maxBackoff": "500ms"}
_ACTIVITIES_WITH_TRIES = (
    "allocate-namespace",
    "allocate-storage",
    "allocate-identity-store",
    "allocate-traffic-boundary",
    "apply-schema",
    "deploy-workloads",
    "send-welcome-emails",
)
_SLEEP = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1; done"]


def workload(name: str = "auth", **more: Any) -> Object:
    """A workload that any cluster can run."""
    return {
        "name": name,
        "image": "docker.io/library/busybox:1.37",
        "command": _SLEEP,
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "100m", "memory": "32Mi"},
        },
        **more,
    }


def plan(name: str, *workloads: Object, **spec: Any) -> Object:
    """A plan with small retry budgets, for which an instant of readiness is enough."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Plan",
        "metadata": {"name": name},
        "spec": {
            "regions": [REGION],
            "minReadySeconds": 0,
            "workloads": list(workloads) or [workload()],
            "retries": dict.fromkeys(_ACTIVITIES_WITH_TRIES, _IMPATIENT),
            **spec,
        },
    }


def failing(name: str, behaviour: str | None, seconds: int = 15, **more: Any) -> Object:
    """A plan whose workload does not get ready within so many seconds."""
    annotations = {} if behaviour is None else {BEHAVIOUR: behaviour}
    return plan(name, workload(annotations=annotations, **more), timeouts={"wait-ready": f"{seconds}s"})


PLANS: dict[str, Object] = {
    each["metadata"]["name"]: each
    for each in (
        plan(
            "standard",
            workload("auth", replicas=2, route=True),
            workload("worker", ports=[]),
            quota={"requests.cpu": "1", "requests.memory": "1Gi", "pods": "10"},
            limitRange={"default": {"cpu": "100m"}, "defaultRequest": {"cpu": "10m"}},
            storage={"connectionLimit": 7},
        ),
        plan("small"),
        failing("endless", "never-ready", 300, command=["sh", "-c", "sleep 3600"], readinessProbe={"port": 8080}),
        failing("crash-loop", "crash-loop", command=["sh", "-c", "exit 1"]),
        failing("image-pull", "image-pull", image="images.invalid/nobody/has-it:1.0"),
        failing("unschedulable", None, resources={"requests": {"cpu": "20000"}, "limits": {"cpu": "20000"}}),
        plan("no-room", quota={"pods": "0"}, timeouts={"wait-ready": "15s"}),
        plan(
            "patient-with-postgres",
            retries={"allocate-storage": {"maxTries": 100, "initialBackoff": "200ms", "maxBackoff": "3s"}},
            timeouts={"allocate-storage": "1h"},
        ),
        plan("impatient-with-postgres", timeouts={"allocate-storage": "5s"}),
        plan(
            "minutes-between-tries",
            retries={"allocate-storage": {"maxTries": 5, "initialBackoff": "2m", "maxBackoff": "2m"}},
        ),
        plan(FORBIDDEN_PLAN),
    )
}

OWN_PLANS = (
    "stuck",
    "probed",
    "probed-in-vain",
    "hesitant",
    "forgetful",
    "delayed",
    "hasty",
    "impatient",
    "short",
    "rolling",
    "held",
    "held-to-fail",
    "bottomless",
    "outgoing",
    "staying",
)
"""Plans that a test applies itself, called as its tenant."""


def organization() -> Object:
    """Entitled to all plans but one."""
    plans = sorted({*PLANS, *OWN_PLANS, "unheard-of"} - {FORBIDDEN_PLAN})
    return {
        "apiVersion": API_VERSION,
        "kind": "Organization",
        "metadata": {"name": ORGANIZATION},
        "spec": {"namespace": NAMESPACE, "plans": plans, "displayName": "Acme"},
    }


def tenant(name: str, plan_name: str, **spec: Any) -> Object:
    """A Tenant as a user writes it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Tenant",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "organization": ORGANIZATION,
            "displayName": name,
            "plan": plan_name,
            "admin": {"email": f"admin@{name}.example"},
            **spec,
        },
    }
