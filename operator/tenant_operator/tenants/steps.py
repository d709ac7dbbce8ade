"""What a Tenant's things are called, and the steps of its saga with the overrides of the platform and of its plan."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.plan import Plan, PlanSpec
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Catalog
from tenant_operator.provisioning.activity import Activity
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.rules import lives_with
from tenant_operator.saga.step import Step
from tenant_operator.tenants.recollection import Recollection

_KEPT: Final = 1000
"""Tenants whose steps are remembered from one write to the next."""


class TenantSteps:
    """By the catalogue as it is now."""

    def __init__(
        self, activities: Mapping[str, Activity], catalog: Catalog, options: Options, recollection: Recollection
    ) -> None:
        self._activities = activities
        self._catalog = catalog
        self._options = options
        self._recollection = recollection
        self._kept: dict[Names, tuple[PlanSpec | None, Mapping[str, Step]]] = {}

    def names(self, tenant: KnownTenant) -> Names:
        """What everything of the tenant is called. One that only pretends to be of an organisation learns no slug."""
        return self.names_as(tenant, self._recollection.identity(tenant))

    def names_as(self, tenant: KnownTenant, identity: str) -> Names:
        """The names that it would have under another identity than is known of it."""
        organization = self._catalog.organization(tenant.spec.organization)
        is_member = organization is not None and lives_with(tenant, organization)
        slug = organization.slug if organization is not None and is_member else tenant.spec.organization
        if tenant.status.allocations and tenant.status.organization_slug:
            slug = tenant.status.organization_slug
        return Names(
            slug=tenant.slug,
            organization=slug,
            organization_name=tenant.spec.organization,
            uid=identity,
            base_domain=self._options.base_domain,
        )

    def of(self, tenant: Tenant) -> Mapping[str, Step]:
        """The steps of the tenant's saga by activity, in order."""
        names = self.names(tenant)
        plan = self._catalog.plan(tenant.status.plan or tenant.spec.plan)
        spec = plan.spec if plan is not None else None
        known, steps = self._kept.get(names, (None, None))
        if steps is None or known is not spec:
            steps = {name: self._step(activity, names, plan) for name, activity in self._activities.items()}
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[names] = (spec, steps)
        return steps

    def _step(self, activity: Activity, names: Names, plan: Plan | None) -> Step:
        """The step with the platform's overrides, and over them the plan's."""
        timeout = self._options.timeouts.get(activity.name, activity.timeout)
        retry = replace(activity.retry, stalled_every=self._options.stalled_retry)
        overrides = [self._options.retries.get(activity.name)]
        if plan is not None:
            timeout = plan.spec.timeouts.get(activity.name, timeout)
            overrides.append(plan.spec.retries.get(activity.name))
        for override in overrides:
            if override is not None:
                retry = replace(
                    retry,
                    max_tries=override.max_tries or retry.max_tries,
                    initial=override.initial_backoff or retry.initial,
                    maximum=override.max_backoff or retry.maximum,
                )
        return Step(
            activity=activity.name,
            phase=activity.phase,
            timeout=timeout,
            retry=retry,
            max_takeovers=self._options.max_takeovers,
            best_effort=activity.best_effort,
            compensates=activity.compensates,
            verifies=activity.verifies,
            renews=activity.renews,
            looks_only=activity.looks_only,
            reserves=tuple(activity.reserves(names)),
        )
