"""What the plan makes of a tenant's namespace, as a whole, and its fingerprint; and what the activities that apply it
tell the record."""

import hashlib
import json
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Final

from tenant_operator.api.plan import Plan
from tenant_operator.api.same import Same
from tenant_operator.ports import Endpoint, Manifest
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options

_REMEMBERED: Final = 128
"""Tenants whose contents are remembered: twice as many as are at work at once, if nobody has set that higher."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What an activity has deployed."""

    workloads_hash: str


@dataclass(frozen=True, slots=True)
class Activated:
    """How an activity has left the route of a complete tenant."""

    suspended: bool


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All that the plan makes of a tenant's namespace and route: not to be changed, it is shared. `namespace`: the
    Namespace first, then its bounds. `route`: as it is when it is open."""

    namespace: tuple[Manifest, ...]
    policies: tuple[Manifest, ...]
    workloads: tuple[Manifest, ...]
    route: tuple[Manifest, ...]

    def all(self) -> tuple[Manifest, ...]:
        """Every object."""
        return (*self.namespace, *self.policies, *self.workloads, *self.route)


def contents(names: Names, plan: Plan, options: Options, database: Endpoint, credentials: int = 0) -> Contents:
    """What the plan makes of the tenant. Those of the tenants at work are remembered: a run asks many times.
    `credentials`: how often what the workloads log in with was made again. Rejected if a template in the plan is
    broken."""
    return _contents(names, Same(plan, plan.spec), Same(options), database, credentials)


def digest(names: Names, plan: Plan, options: Options, database: Endpoint, credentials: int = 0) -> str:
    """A fingerprint of `contents`, which changes with them, for the price of the names: rendering all tenants when the
    operator starts would take minutes. Rejected as above."""
    own = json.dumps([astuple(names), _specimen(Same(plan, plan.spec), Same(options), database), credentials])
    return hashlib.sha256(own.encode()).hexdigest()[:16]


@lru_cache(maxsize=_REMEMBERED)
def _contents(names: Names, plan: Same, options: Same, database: Endpoint, credentials: int) -> Contents:
    return _rendered(names, plan.it, options.it, database, credentials)


@lru_cache(maxsize=_REMEMBERED)
def _specimen(plan: Same, options: Same, database: Endpoint) -> str:
    """What the plan makes of nobody's tenant, and its own templates, which may make something else of another's; and
    what it makes of the database."""
    nobody = Names("slug", "organization", "name", "uid", options.it.base_domain)
    made = _rendered(nobody, plan.it, options.it, database, 0).all()
    templates = [workload.model_dump(mode="json") for workload in plan.it.spec.workloads]
    storage = plan.it.spec.storage.model_dump(mode="json")
    return hashlib.sha256(json.dumps([made, templates, storage], sort_keys=True).encode()).hexdigest()


def _rendered(names: Names, plan: Plan, options: Options, database: Endpoint, credentials: int) -> Contents:
    return Contents(
        namespace=tuple(manifests.namespace(names, plan)),
        policies=tuple(manifests.network_policies(names, options, plan, database=database)),
        workloads=tuple(manifests.workloads(names, plan, credentials)),
        route=tuple(route.manifests(names, options, plan, is_open=True)),
    )
