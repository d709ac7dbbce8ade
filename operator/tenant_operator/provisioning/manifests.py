"""The Kubernetes objects of a tenant, its route aside: what its namespace is, what may talk to whom, what runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tenant_operator.api.names import ANNOTATION_CREDENTIALS
from tenant_operator.api.plan import Plan, Workload
from tenant_operator.ports import Endpoint, Manifest
from tenant_operator.provisioning.egress import egress_rules
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.rendering import BUILT_IN, render_value

NETWORK_POLICIES: Final = ("default-deny", "allow-ingress", "allow-egress")
"""The names of a tenant's NetworkPolicies."""


@dataclass(frozen=True, slots=True)
class EnvValue:
    """The value of an environment variable: `text`, or what the key of a Secret holds."""

    text: str = ""
    secret: str = ""
    key: str = ""


_ALLOCATED_ENV: Final[Mapping[str, EnvValue]] = MappingProxyType(
    {
        "DATABASE_URL": EnvValue(secret=Names.database_secret, key="uri"),
        "IDENTITY_DATABASE_URL": EnvValue(secret=Names.identity_secret, key="uri"),
        "IDENTITY_DATABASE_SCHEMA": EnvValue(secret=Names.identity_secret, key="schema"),
        "SIGNING_KEY": EnvValue(secret=Names.signing_secret, key="private-key.pem"),
        "SIGNING_KEY_ID": EnvValue(secret=Names.signing_secret, key="kid"),
    }
)


def template_values(names: Names) -> dict[str, str]:
    """What the templates inside a plan (values of environment variables, the readiness URL) may speak of."""
    return {
        "host": names.host,
        "url": names.url,
        "namespace": names.namespace,
        "slug": names.slug,
        "organization": names.organization,
    }


def claim(names: Names) -> Manifest:
    """The Namespace alone."""
    (manifest,) = BUILT_IN.render(
        "namespace.yaml.j2", names, {"namespace": names.namespace}, outside={"Namespace": None}
    )
    return manifest


def namespace(names: Names, plan: Plan) -> list[Manifest]:
    """The Namespace, first, and what bounds its content."""
    values = {"quota_name": names.quota, "limits_name": names.limits, "plan": plan.spec}
    return [claim(names), *BUILT_IN.render("bounds.yaml.j2", names, values)]


def network_policies(names: Names, options: Options, plan: Plan, *, database: Endpoint) -> list[Manifest]:
    """Who may reach the tenant's pods, and whom they may reach. Rejected if the plan's egress makes no sense."""
    values = {
        "ingress_namespace": options.ingress_namespace,
        "operator_namespace": options.responder_namespace,
        "egress": egress_rules(options, plan, database),
        "plan": plan.spec,
    }
    return BUILT_IN.render("network-policies.yaml.j2", names, values)


def workloads(names: Names, plan: Plan, credentials: int = 0) -> list[Manifest]:
    """The plan's workloads; their pods are made anew when `credentials` changes. Rejected, naming the variable, if the
    template in a value of the plan is broken."""
    values = {
        "labels": names.labels(),
        "workloads": plan.spec.workloads,
        "annotations": {each.name: _annotations(each, credentials) for each in plan.spec.workloads},
        "min_ready_seconds": plan.spec.min_ready_seconds,
        "env": {workload.name: _env(names, plan, workload) for workload in plan.spec.workloads},
    }
    return BUILT_IN.render("workloads.yaml.j2", names, values)


def _annotations(workload: Workload, credentials: int) -> dict[str, str]:
    made_again = {ANNOTATION_CREDENTIALS: str(credentials)} if credentials else {}
    return {**workload.annotations, **made_again}


def _env(names: Names, plan: Plan, workload: Workload) -> dict[str, EnvValue]:
    """The variables of a container by name; a variable of the plan takes the place of one of the platform."""
    platform = {"TENANT_HOST": EnvValue(text=names.host), "TENANT_URL": EnvValue(text=names.url), **_ALLOCATED_ENV}
    own = {
        variable.name: EnvValue(
            text=render_value(
                variable.value,
                template_values(names),
                place=f"plan {plan.metadata.name}, workload {workload.name}, variable {variable.name}",
            )
        )
        for variable in workload.env
    }
    return platform | own
