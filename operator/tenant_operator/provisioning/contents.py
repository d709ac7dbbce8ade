"""What the plan makes of a tenant's namespace, as a whole; and what the activities that apply it tell the record."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tenant_operator.api.plan import Plan
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
    Namespace first, then its bounds. `route`: as it is when it is open. `digest`: a fingerprint of all."""

    namespace: tuple[Manifest, ...]
    policies: tuple[Manifest, ...]
    workloads: tuple[Manifest, ...]
    route: tuple[Manifest, ...]
    digest: str

    def has(self, kind: str, name: str) -> bool:
        """Whether such an object is among them."""
        made = (*self.namespace, *self.policies, *self.workloads, *self.route)
        return any(each["kind"] == kind and each["metadata"]["name"] == name for each in made)


def contents(names: Names, plan: Plan, options: Options, database: Endpoint) -> Contents:
    """What the plan makes of the tenant. Those of the tenants at work are remembered: a run asks many times. Rejected
    if a template in the plan is broken."""
    return _contents(names, _Same(plan, plan.spec), _Same(options, options), database)


class _Same:
    """Stands for `it` as long as `what` is the very same object: comparing and hashing it would cost more than it
    saves."""

    __slots__ = ("it", "what")

    def __init__(self, it: Any, what: object) -> None:
        self.it = it
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.what is self.what

    def __hash__(self) -> int:
        return id(self.what)


@lru_cache(maxsize=_REMEMBERED)
def _contents(names: Names, plan: _Same, options: _Same, database: Endpoint) -> Contents:
    namespace = manifests.namespace(names, plan.it)
    policies = manifests.network_policies(names, options.it, plan.it, database=database)
    workloads = manifests.workloads(names, plan.it)
    open_route = route.manifests(names, options.it, plan.it, is_open=True)
    flat = [*namespace, *policies, *workloads, *open_route]
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]
    return Contents(tuple(namespace), tuple(policies), tuple(workloads), tuple(open_route), digest)
