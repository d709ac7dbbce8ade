"""What a request for a tenant must satisfy, rule by rule."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import TenantStatus
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.organization_rules import defects
from tenant_operator.provisioning.rules import Violation, check_request, refusal

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AUTH: dict[str, Any] = {"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}


def a_tenant(uid: str = "u1", *, created: datetime | None = NOON, state: str = "Pending", **spec: object) -> Tenant:
    name = str(spec.pop("name", "banking"))
    return Tenant.model_validate(
        {
            "metadata": {"name": name, "namespace": "cymmetri", "uid": uid, "creationTimestamp": created},
            "spec": {
                "organization": "cymmetri",
                "plan": "starter",
                "admin": {"email": "admin@cymmetri.example"},
                **spec,
            },
            "status": {"state": state},
        }
    )


def an_organization(**spec: object) -> Organization:
    return Organization.model_validate(
        {"metadata": {"name": "cymmetri"}, "spec": {"namespace": "cymmetri", "plans": ["free", "starter"], **spec}}
    )


def a_plan(**spec: object) -> Plan:
    return Plan.model_validate(
        {"metadata": {"name": "starter"}, "spec": {"regions": ["eu-1", "us-1"], "workloads": [AUTH], **spec}}
    )


def check(
    tenant: Tenant,
    *,
    plan: Plan | None = None,
    organization: Organization | None = None,
    others: tuple[Tenant, ...] = (),
    missing: frozenset[str] = frozenset(),
) -> list[Violation]:
    organization = None if "organization" in missing else organization or an_organization()
    plan = None if "plan" in missing else plan or a_plan()
    slug = organization.slug if organization else tenant.spec.organization
    names = Names(tenant.slug, slug, "cymmetri", tenant.metadata.uid, "tenants.example")
    found = defects(organization, (), others, "tenant-operator") if organization else ()
    return check_request(tenant, plan, organization, others, names, found)


def test_an_admissible_request_breaks_no_rule() -> None:
    assert check(a_tenant(displayName="retail-banking", region="eu-1")) == []


@pytest.mark.parametrize("slug", ["1bank", "Bank", "bank-", "-bank", "ba_nk", "bank.eu", "bank\n"])
def test_a_slug_that_is_no_dns_label_is_refused(slug: str) -> None:
    (violation,) = check(a_tenant(slug=slug))

    assert (violation.field, violation.value) == ("spec.slug", slug)
    assert "start with a letter" in violation.message


def test_the_slug_defaults_to_the_name_of_the_object() -> None:
    (violation,) = check(a_tenant(name="banking.eu"))

    assert (violation.field, violation.value) == ("spec.slug", "banking.eu")


@pytest.mark.parametrize("slug", ["xn--bcher-kva", "ab--cd", "xn--a"])
def test_a_slug_that_looks_like_an_encoding_is_refused(slug: str) -> None:
    (violation,) = check(a_tenant(slug=slug))

    assert (violation.field, violation.value) == ("spec.slug", slug)
    assert "third and fourth place" in violation.message


def test_dashes_in_other_places_are_nobodys_business() -> None:
    assert check(a_tenant(slug="a--b")) == [] == check(a_tenant(slug="abc--d"))


@pytest.mark.parametrize("slug", ["Cymmetri", "xn--a"])
def test_the_slug_of_the_organization_is_checked_too(slug: str) -> None:
    (violation,) = check(a_tenant(), organization=an_organization(slug=slug))

    assert violation.field == "spec.organization"
    assert f"'{slug}'" in violation.message


@pytest.mark.parametrize(("length", "admissible"), [(54, True), (55, False)])
def test_slug_and_organization_fit_one_dns_label(length: int, admissible: bool) -> None:
    violations = check(a_tenant(slug="a" * length))

    assert (violations == []) is admissible
    assert all("set a shorter spec.slug" in each.message for each in violations)


@pytest.mark.parametrize("name", ["Banking", "retail banking", "retail--banking", "-retail", "retail-", "1st", ""])
def test_a_display_name_that_a_later_phase_would_choke_on_is_refused(name: str) -> None:
    (violation,) = check(a_tenant(displayName=name))

    assert (violation.field, violation.value) == ("spec.displayName", name)


def test_an_unknown_organization_is_refused() -> None:
    (violation,) = check(a_tenant(), missing=frozenset({"organization"}))

    assert violation.field == "spec.organization"
    assert "no Organization of this name has its Tenants in namespace cymmetri" in violation.message


def test_an_unknown_plan_is_refused() -> None:
    (violation,) = check(a_tenant(plan="gold"), missing=frozenset({"plan"}))

    assert str(violation) == "spec.plan 'gold': there is no such Plan; Organization cymmetri may use free, starter"


def test_the_organization_must_be_entitled_to_the_plan() -> None:
    (violation,) = check(a_tenant(), organization=an_organization(plans=["free"]))

    assert violation.field == "spec.plan"
    assert "not entitled" in violation.message
    assert "it may use free" in violation.message


def test_a_tenant_lives_in_the_namespace_of_its_organization() -> None:
    (violation,) = check(a_tenant(), organization=an_organization(namespace="elsewhere"))

    assert (violation.field, violation.value) == ("spec.organization", "cymmetri")
    assert "elsewhere" not in str(violation)  # nobody's business


def test_of_an_organization_elsewhere_no_rule_tells_anything() -> None:
    organization = an_organization(namespace="elsewhere", slug="x" * 60, plans=["free"])
    others = tuple(a_tenant(f"u{n}", name=f"t{n}") for n in range(3))

    there = check(a_tenant(plan="starter"), organization=organization, others=others, plan=a_plan(**LIMIT_2))
    not_there = check(a_tenant(plan="starter"), missing=frozenset({"organization"}), plan=a_plan(**LIMIT_2))

    assert there == not_there


def test_the_region_must_be_offered_by_the_plan() -> None:
    (violation,) = check(a_tenant(region="ap-1"))

    assert (violation.field, violation.value) == ("spec.region", "ap-1")
    assert "it offers eu-1, us-1" in violation.message


def test_a_plan_whose_traffic_has_nowhere_to_go_is_refused() -> None:
    (violation,) = check(a_tenant(), plan=a_plan(workloads=[{"name": "worker", "image": "worker:1"}]))

    assert "no workload with a port" in violation.message


def test_a_plan_may_not_use_the_name_of_the_closed_backend() -> None:
    (violation,) = check(a_tenant(), plan=a_plan(workloads=[AUTH, {"name": "paused", "image": "worker:1"}]))

    assert "keeps for itself" in violation.message


LIMIT_2: Mapping[str, Any] = {"limits": {"tenants": 2}}


def test_a_tenant_is_within_the_limit_while_fewer_came_before() -> None:
    first, second, third = (a_tenant(f"u{n}", created=NOON + timedelta(seconds=n), name=f"t{n}") for n in range(3))
    everyone = (third, first, second)

    assert check(first, plan=a_plan(**LIMIT_2), others=everyone) == []
    assert check(second, plan=a_plan(**LIMIT_2), others=everyone) == []
    (violation,) = check(third, plan=a_plan(**LIMIT_2), others=everyone)
    assert "limit is 2 per organization, and 2 of cymmetri came before" in violation.message


def test_a_request_that_is_not_stored_yet_comes_last() -> None:
    others = tuple(a_tenant(f"u{n}", name=f"t{n}") for n in range(2))

    assert check(a_tenant("", created=None), plan=a_plan(**LIMIT_2), others=others) != []


@pytest.mark.parametrize("state", TenantState)
def test_every_state_counts_but_decommissioned(state: TenantState) -> None:
    others = tuple(a_tenant(f"a{n}", name=f"t{n}", state=state.value) for n in range(2))

    admissible = check(a_tenant("u1"), plan=a_plan(**LIMIT_2), others=others) == []

    assert admissible is (state is TenantState.DECOMMISSIONED)


def test_tenants_of_other_organizations_do_not_count() -> None:
    others = tuple(a_tenant(f"a{n}", name=f"t{n}", organization="other") for n in range(2))

    assert check(a_tenant("u1"), plan=a_plan(**LIMIT_2), others=others) == []


def test_tenants_that_only_name_the_organization_do_not_count() -> None:
    """Whoever can create Tenants anywhere could use up its limit."""
    planted = [a_tenant(f"a{n}", name=f"t{n}") for n in range(5)]
    elsewhere = tuple(
        each.model_copy(update={"metadata": each.metadata.model_copy(update={"namespace": "elsewhere"})})
        for each in planted
    )

    assert check(a_tenant("u1"), plan=a_plan(**LIMIT_2), others=elsewhere) == []


def test_without_a_limit_any_number_is_admissible() -> None:
    assert check(a_tenant("z"), others=tuple(a_tenant(f"a{n}", name=f"t{n}") for n in range(200))) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 8))
def test_exactly_the_limit_gets_in_whatever_the_order_of_arrival(seconds: list[int], limit: int) -> None:
    tenants = [
        a_tenant(f"u{n}", created=NOON + timedelta(seconds=offset), name=f"t{n}") for n, offset in enumerate(seconds)
    ]
    plan = a_plan(limits={"tenants": limit})

    admitted = [each for each in tenants if not check(each, plan=plan, others=tuple(tenants))]

    assert len(admitted) == min(limit, len(tenants))


def test_all_violations_are_told_at_once() -> None:
    tenant = a_tenant(slug="Bank", displayName="My Bank", region="ap-1")

    text = refusal(check(tenant))

    assert text.count("; ") >= 2
    for field in ("spec.slug 'Bank'", "spec.displayName 'My Bank'", "spec.region 'ap-1'"):
        assert field in text


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=20))
def test_any_input_gets_an_answer(slug: str, name: str, region: str) -> None:
    meta = ObjectMeta(name="banking", namespace="cymmetri", uid="u1", creation_timestamp=NOON)
    spec = a_tenant().spec.model_copy(update={"slug": slug, "display_name": name, "region": region})

    for violation in check(Tenant(metadata=meta, spec=spec, status=TenantStatus())):
        assert violation.message
