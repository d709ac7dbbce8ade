"""What the plan makes of a tenant's namespace, as a whole; and what the activities that apply it tell the record."""

import hashlib
import json
from dataclasses import dataclass

from tenant_operator.api.plan import Plan
from tenant_operator.ports import Endpoint, Manifest
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options


@dataclass(frozen=True, slots=True)
class Deployed:
    """What an activity has deployed."""

    workloads_hash: str


@dataclass(frozen=True, slots=True)
class Activated:
    """How an activity has left the route of a complete tenant."""

    suspended: bool


def contents(names: Names, plan: Plan, options: Options, database: Endpoint) -> list[Manifest]:
    """All that the plan makes of the tenant's namespace and route, as it is when the route is open. Rejected if a
    template in the plan is broken."""
    return [
        *manifests.namespace(names, plan),
        *manifests.network_policies(names, options, plan, database=database),
        *manifests.workloads(names, plan),
        *route.manifests(names, options, plan, is_open=True),
    ]


def contents_hash(names: Names, plan: Plan, options: Options, database: Endpoint) -> str:
    """A fingerprint of these contents. Rejected as above."""
    made = contents(names, plan, options, database)
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
