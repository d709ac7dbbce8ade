"""Plan: what a tenant of a tier is made of, and how patient the platform is while making it."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field
from pydantic.config import JsonDict

from .cel import quoted, rule, rules
from .conditions import Conditions
from .duration import Duration
from .egress import EgressRule
from .fields import (
    UNOBSERVED,
    ApiModel,
    Label,
    ObservedGeneration,
    Quantities,
    Text,
    Url,
    bounded_list,
    bounded_map,
    bounded_set,
    keywords,
    list_map,
    whole,
)
from .names import REGION_PATTERN, SLUG_PATTERN, ActivityName
from .resource import Column, Definition, Resource

_ACTIVITIES: Final = "[" + ", ".join(quoted(each) for each in ActivityName) + "]"
_LONGER_THAN_ZERO: Final = rule(
    "self.all(name, duration(self[name]) > duration('0s'))",
    "timeouts: '%s' must be longer than zero",
    "self.filter(name, duration(self[name]) <= duration('0s'))[0]",
)

Port = Annotated[int, whole(1, 65535)]
Seconds = Annotated[int, whole(1, 3600)]
Argument = Annotated[str, keywords({"maxLength": 4096})]


def _by_activity(field: str, *more: JsonDict) -> JsonDict:
    """The schema of a map whose keys are activities."""
    return {
        "maxProperties": len(ActivityName),
        **rules(
            rule(
                f"self.all(name, name in {_ACTIVITIES})",
                f"{field}: unknown activity '%s'; known are {', '.join(ActivityName)}",
                f"self.filter(name, !(name in {_ACTIVITIES}))[0]",
            ),
            *more,
        ),
    }


class Limits(ApiModel):
    """What an organisation may have of a plan."""

    tenants: Annotated[int, whole()] | None = None
    """The number of tenants per organisation; absent means unlimited."""


class LimitRange(ApiModel):
    """What a container gets that asks for nothing."""

    default: Quantities = Field(default_factory=dict)
    """Limits."""
    default_request: Quantities = Field(default_factory=dict)
    """Requests."""


class ContainerPort(ApiModel):
    """A port that a workload listens on."""

    name: Annotated[str, keywords({"minLength": 1, "maxLength": 15, "pattern": SLUG_PATTERN})]
    """The name of the port, in the Deployment and in the Service."""
    container_port: Port
    """The port in the container, and of the Service."""


class Resources(ApiModel):
    """What a container asks for and may use."""

    requests: Quantities = Field(default_factory=dict)
    """What the container asks for."""
    limits: Quantities = Field(default_factory=dict)
    """What the container may use."""


class HttpProbe(ApiModel):
    """An HTTP request that a healthy container answers."""

    path: Annotated[str, keywords({"maxLength": 1024, "pattern": "^/"})] = "/"
    """The path of the request."""
    port: Port
    """The port in the container."""
    period_seconds: Seconds = 10
    """The time between two requests."""
    initial_delay_seconds: Annotated[int, whole(0, 3600)] = 0
    """The time before the first request."""


class EnvVar(ApiModel):
    """One environment variable; its value may be a template."""

    name: Annotated[str, keywords({"minLength": 1, "maxLength": 253, "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"})]
    """The name of the variable; one of the platform's, like DATABASE_URL, is overridden."""
    value: Argument = ""
    """The value; `{{ host }}`, `{{ url }}`, `{{ namespace }}`, `{{ slug }}` and `{{ organization }}` are filled in."""


class Workload(ApiModel):
    """One Deployment of each tenant."""

    name: Annotated[Label, keywords({"maxLength": 40, "pattern": SLUG_PATTERN})]
    """The name of the Deployment and of its Service."""
    image: Annotated[str, keywords({"minLength": 1, "maxLength": 512})]
    """The container image."""
    replicas: Annotated[int, whole(0, 100)] = 1
    """The number of pods."""
    ports: Annotated[tuple[ContainerPort, ...], list_map(16, "name")] = ()
    """The ports that the container listens on; each is a port of the Service."""
    resources: Resources = Resources()
    readiness_probe: HttpProbe | None = None
    liveness_probe: HttpProbe | None = None
    env: Annotated[tuple[EnvVar, ...], list_map(64, "name")] = ()
    """Environment variables, besides those that every container gets. Whoever may read Plans reads them: no secrets."""
    command: Annotated[tuple[Argument, ...], bounded_list(32)] = ()
    """What is run instead of the image's entry point."""
    args: Annotated[tuple[Argument, ...], bounded_list(64)] = ()
    """Arguments of the command."""
    annotations: Annotated[dict[str, Argument], bounded_map(32)] = Field(default_factory=dict)
    """Annotations of the pods."""
    route: bool = False
    """Whether the traffic of the tenant's host goes to the first port of this workload."""


class Readiness(ApiModel):
    """An HTTP request that must succeed before a tenant is ready."""

    url: Annotated[
        Url,
        keywords(
            rules(
                rule(
                    r"self.matches('^(https?://|\\{\\{)')",
                    "readiness url '%s' must start with http:// or https://",
                    "self",
                )
            )
        ),
    ]
    """A template, such as `https://{{ host }}/healthz`."""
    expected_status: Annotated[int, whole(100, 599)] = 200
    """The HTTP status that means ready."""
    timeout_seconds: Annotated[int, whole(1, 60)] = 5
    """How long the answer may take."""


class Storage(ApiModel):
    """The database of a tenant."""

    connection_limit: Annotated[int, whole(1, 10000)] = 20
    """The connections that the database takes at the same time."""


class Retry(ApiModel):
    """How often and how soon a failed activity is tried again; what is absent is the operator's default."""

    max_tries: Annotated[int, whole(1, 100)] | None = None
    """The tries in all. While a server that all tenants share is away they are not counted."""
    initial_backoff: Duration | None = None
    """The pause after the first failed try; it doubles with each further one."""
    max_backoff: Duration | None = None
    """The longest pause."""


_ROUTED: Final = "(self.exists(w, w.route) ? self.filter(w, w.route)[0] : self[0])"


class PlanSpec(ApiModel):
    """What each tenant of the plan gets."""

    display_name: Text = ""
    """The name shown to people."""
    limits: Limits = Limits()
    regions: Annotated[tuple[Annotated[Label, keywords({"pattern": REGION_PATTERN})], ...], bounded_set(64)] = ()
    """Where tenants may live; a tenant may name none."""
    quota: Quantities = Field(default_factory=dict)
    """The hard limits of the ResourceQuota in the tenant's namespace; empty means no quota."""
    limit_range: LimitRange | None = None
    workloads: Annotated[
        tuple[Workload, ...],
        list_map(16, "name"),
        keywords(
            {
                "minItems": 1,
                **rules(
                    rule(
                        "self.filter(w, w.route).size() <= 1",
                        "the traffic goes to one workload only: leave route: true on one of them",
                    ),
                    rule(
                        f"has({_ROUTED}.ports) && size({_ROUTED}.ports) > 0",
                        "workload '%s' takes the traffic (route: true, or else the first): it needs a port",
                        f"{_ROUTED}.name",
                    ),
                ),
            }
        ),
    ]
    """What is deployed. Traffic goes to the one with `route: true`, or else to the first."""
    egress: Annotated[tuple[EgressRule, ...], bounded_list(16)] = ()
    """What the pods of a tenant may reach besides each other, the resolver and their database; nothing if empty. An
    ipBlock that is wider than a network of the setting EGRESS_CLOSED (private and link-local ones by default) leaves
    that closed; one that lies within it opens it."""
    readiness: Readiness | None = None
    min_ready_seconds: Annotated[int, whole(0, 3600)] = 10
    """How long a pod must have been ready, with no restart of a container, until it counts: when a tenant is made, when
    a changed plan rolls out, and while the tenant serves. 0: an instant is enough."""
    storage: Storage = Storage()
    timeouts: Annotated[dict[str, Duration], keywords(_by_activity("timeouts", _LONGER_THAN_ZERO))] = Field(
        default_factory=dict
    )
    """How long an activity may take, by its name."""
    retries: Annotated[dict[str, Retry], keywords(_by_activity("retries"))] = Field(default_factory=dict)
    """How an activity is retried, by its name."""
    audit_retention_days: Annotated[int, whole(1, 36500)] = 30
    """How long audit events are to be kept. Nothing acts on it yet."""

    @property
    def routed_workload(self) -> Workload:
        """The workload that takes the traffic of the tenant's host."""
        return next((each for each in self.workloads if each.route), self.workloads[0])


class PlanStatus(ApiModel):
    """What became of the plan."""

    observed_generation: ObservedGeneration = UNOBSERVED
    """The generation of the spec that the status speaks of; -1 before the operator has looked."""
    conditions: Annotated[Conditions, list_map(32, "type")] = ()
    """Ready, Reconciling and Stalled."""
    tenants: Annotated[int, whole()] = 0
    """The tenants that use the plan."""


class Plan(Resource):
    """A tier that organisations buy: what their tenants get, and their limits."""

    definition: ClassVar = Definition(
        kind="Plan",
        plural="plans",
        short_names=(),
        scope="Cluster",
        columns=(
            Column("Display Name", ".spec.displayName"),
            Column("Limit", ".spec.limits.tenants", "integer"),
            Column("Tenants", ".status.tenants", "integer"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
    )

    kind: Literal["Plan"] = "Plan"
    spec: PlanSpec
    status: PlanStatus = PlanStatus()
