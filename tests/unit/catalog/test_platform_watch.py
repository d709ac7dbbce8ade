"""Which Organizations and Plans are looked at after an observation, how soon, and how often at most."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.catalog.platform_reconciler import PlatformKey
from tenant_operator.catalog.platform_watch import COALESCING_SECONDS, DRIFT_SECONDS, PlatformWatch, counted_by
from tests.simulation.virtual_time import run

ACME = PlatformKey(Organization, "acme")
OTHER = PlatformKey(Organization, "other")
STARTER = PlatformKey(Plan, "starter")
OURS = {"app.kubernetes.io/managed-by": "tenant-operator", "intelliauth.io/organization": "acme"}


def a_tenant(state: str = "Active", organization: str = "acme", plan: str = "starter") -> Tenant:
    return Tenant.model_validate(
        {
            "metadata": {"name": "banking", "namespace": "acme"},
            "spec": {"organization": organization, "plan": plan, "admin": {"email": "ann@acme.example"}},
            "status": {"state": state},
        }
    )


def an_organization(name: str = "acme", *, generation: int = 1, observed: int | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "generation": generation},
        "spec": {"namespace": f"{name}-tenants", "plans": ["starter"]},
        "status": {} if observed is None else {"observedGeneration": observed},
    }


def a_plan(*, observed: int | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": "starter", "generation": 1},
        "spec": {"workloads": []},
        "status": {} if observed is None else {"observedGeneration": observed},
    }


def a_role_binding(name: str, namespace: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, **({} if labels is None else {"labels": labels})}}


class Heard:
    """A watch over acme and other, and when `reconcile` was called with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[PlatformKey, float]] = []
        self.catalog = WatchedCatalog()
        for name in ("acme", "other"):
            self.catalog.observe_organization(None, an_organization(name))
        self.watch = PlatformWatch(self.catalog, self._reconcile)

    async def _reconcile(self, key: PlatformKey, _: asyncio.Event) -> float | None:
        self.calls.append((key, round(asyncio.get_running_loop().time(), 3)))
        return None


def calls_after(story: Callable[[Heard], Awaitable[None] | None]) -> set[tuple[PlatformKey, float]]:
    """Who was looked at, and how many seconds after the start."""

    async def told() -> list[tuple[PlatformKey, float]]:
        heard = Heard()
        heard.watch.begin()
        telling = story(heard)
        if telling is not None:
            await telling
        await asyncio.sleep(60)
        return heard.calls

    calls = run(told())
    assert len(calls) == len(set(calls))
    return set(calls)


def test_a_tenant_that_changes_state_concerns_its_organization_and_its_plan() -> None:
    calls = calls_after(lambda heard: heard.watch.tenant_changed(a_tenant("Provisioning"), a_tenant("Active")))

    assert calls == {(ACME, COALESCING_SECONDS), (STARTER, COALESCING_SECONDS)}


def test_a_tenant_of_which_something_else_changes_concerns_nobody() -> None:
    assert calls_after(lambda heard: heard.watch.tenant_changed(a_tenant(), a_tenant())) == set()


TENANTS = st.none() | st.builds(
    a_tenant, st.sampled_from(TenantState), st.sampled_from(["acme", "other"]), st.sampled_from(["starter", "pro"])
)


@given(TENANTS, TENANTS)
def test_whoever_counts_a_tenant_before_or_after_a_change_counts_anew(
    before: Tenant | None, after: Tenant | None
) -> None:
    concerned = counted_by(before, after)

    assert concerned == counted_by(after, before)
    for tenant, other in ((before, after), (after, before)):
        if tenant is not None and (other is None or other.spec.plan != tenant.spec.plan):
            assert PlatformKey(Plan, tenant.spec.plan) in concerned
        if tenant is not None and (other is None or other.status.state is not tenant.status.state):
            assert PlatformKey(Organization, tenant.spec.organization) in concerned


@example([0.542, 2.541])
@given(st.lists(st.integers(0, 9_999).map(lambda milliseconds: milliseconds / 1000), min_size=1, max_size=200))
def test_a_burst_of_tenants_is_counted_every_two_seconds_at_most_and_at_its_end(moments: list[float]) -> None:
    async def burst(heard: Heard) -> None:
        passed = 0.0
        for moment in sorted(moments):
            await asyncio.sleep(moment - passed)
            passed = moment
            heard.watch.tenant_changed(None, a_tenant())

    times = sorted(time for key, time in calls_after(burst) if key == ACME)

    assert all(later - earlier >= COALESCING_SECONDS - 0.02 for earlier, later in pairwise(times))
    assert max(moments) <= times[-1] <= max(moments) + COALESCING_SECONDS + 0.02


def test_a_new_spec_is_looked_at_at_once_and_an_echo_with_the_next_numbers() -> None:
    assert calls_after(lambda heard: heard.watch.organization_changed("ADDED", an_organization())) == {(ACME, 0.0)}
    changed = an_organization(generation=2, observed=1)
    assert calls_after(lambda heard: heard.watch.organization_changed("MODIFIED", changed)) == {(ACME, 0.0)}
    echo = an_organization(generation=2, observed=2)
    assert calls_after(lambda heard: heard.watch.organization_changed("MODIFIED", echo)) == {(ACME, COALESCING_SECONDS)}
    assert calls_after(lambda heard: heard.watch.organization_changed("DELETED", echo)) == set()


def test_a_plan_that_comes_or_goes_concerns_those_that_are_entitled_to_it() -> None:
    entitled = {(ACME, COALESCING_SECONDS), (OTHER, COALESCING_SECONDS)}

    assert calls_after(lambda heard: heard.watch.plan_changed("ADDED", a_plan())) == {(STARTER, 0.0), *entitled}
    assert calls_after(lambda heard: heard.watch.plan_changed("DELETED", a_plan(observed=1))) == entitled
    echo = a_plan(observed=1)
    assert calls_after(lambda heard: heard.watch.plan_changed("MODIFIED", echo)) == {(STARTER, COALESCING_SECONDS)}


def test_a_role_binding_concerns_whose_it_is_and_whose_place_it_takes() -> None:
    def changed(binding: dict[str, Any]) -> set[tuple[PlatformKey, float]]:
        return calls_after(lambda heard: heard.watch.role_binding_changed(binding))

    assert changed(a_role_binding("intelliauth-owner", "acme-tenants", OURS)) == {(ACME, DRIFT_SECONDS)}
    assert changed(a_role_binding("intelliauth-owner", "other-tenants")) == {(OTHER, DRIFT_SECONDS)}
    assert changed(a_role_binding("intelliauth-owner", "elsewhere")) == set()
    assert changed(a_role_binding("intelliauth-owner", "elsewhere", OURS)) == set()  # copied by anybody
    assert changed(a_role_binding("by-hand", "acme-tenants")) == set()


def test_a_namespace_concerns_the_organizations_that_live_in_it() -> None:
    def changed(**metadata: Any) -> set[tuple[PlatformKey, float]]:
        return calls_after(lambda heard: heard.watch.namespace_changed({"metadata": metadata}))

    assert changed(name="acme-tenants") == {(ACME, DRIFT_SECONDS)}
    assert changed(name="elsewhere") == set()
    assert changed(name="acme-tenants", labels={"intelliauth.io/tenant-uid": "u"}) == {(ACME, DRIFT_SECONDS)}
    assert changed(name="tenant-portal-acme") == set()


def test_an_organization_that_moves_is_concerned_by_both_namespaces() -> None:
    def moving(heard: Heard) -> None:
        moved = an_organization()
        moved["status"]["namespace"] = "former"
        heard.catalog.observe_organization("MODIFIED", moved)
        heard.watch.role_binding_changed(a_role_binding("intelliauth-owner", "former"))

    assert calls_after(moving) == {(ACME, DRIFT_SECONDS)}


def test_a_role_binding_that_is_changed_in_a_loop_costs_two_looks_a_second_at_most() -> None:
    async def loop(heard: Heard) -> None:
        for _ in range(1000):
            heard.watch.role_binding_changed(a_role_binding("intelliauth-owner", "acme-tenants", OURS))
            await asyncio.sleep(0.01)

    assert len(calls_after(loop)) <= 10 / DRIFT_SECONDS + 1


def test_a_newcomer_concerns_whom_it_cannot_stand_beside() -> None:
    """Of two the later one is at fault, and that may be the one known before: the API server counts in seconds."""

    def comes(event: str | None, name: str = "my-other", observed: int | None = None) -> set[tuple[PlatformKey, float]]:
        def story(heard: Heard) -> None:
            body = an_organization(name, observed=observed)
            heard.catalog.observe_organization(event, body)
            heard.watch.organization_changed(event, body)

        return calls_after(story)

    newcomer = PlatformKey(Organization, "my-other")
    assert comes("ADDED") == {(newcomer, 0.0), (OTHER, COALESCING_SECONDS)}
    assert comes("ADDED", "third") == {(PlatformKey(Organization, "third"), 0.0)}
    assert comes("MODIFIED", observed=1) == {(newcomer, COALESCING_SECONDS)}
    assert comes(None) == {(newcomer, 0.0)}  # all are listed, and all are looked at


def test_nothing_is_counted_before_all_is_known() -> None:
    async def story() -> list[tuple[PlatformKey, float]]:
        heard = Heard()
        heard.watch.tenant_changed(None, a_tenant())
        await asyncio.sleep(60)
        return heard.calls

    assert run(story()) == []


def test_nothing_is_looked_at_after_the_end() -> None:
    async def story(heard: Heard) -> None:
        heard.watch.tenant_changed(None, a_tenant())
        await heard.watch.close(1)

    assert calls_after(story) == set()
