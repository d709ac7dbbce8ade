"""Organisations that cannot stand beside each other: what makes them meet, and which of them is at fault."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tenant_operator.api.names import DNS_LABEL_MAX_LENGTH, RESERVED_LABEL_PATTERN, SLUG_PATTERN
from tenant_operator.api.organization import Organization
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.organization_rules import (
    Defect,
    concern_each_other,
    defects,
    defects_of_write,
    home_of,
    may_have_roles,
    slugs_clash,
    wrong_label,
)

OPERATOR = "platform-operator"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def an_organization(
    name: str, *, namespace: str | None = None, home: str | None = None, age: int = 0, slug: str | None = None
) -> Organization:
    """One that is `age` seconds old, and had `home` for its own."""
    created = NOON - timedelta(seconds=age)
    return Organization.model_validate(
        {
            "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": created, "generation": 1},
            "spec": {"namespace": namespace or name, **({} if slug is None else {"slug": slug})},
            "status": {} if home is None else {"namespace": home},
        }
    )


def a_tenant(namespace: str, state: str = "Active") -> Tenant:
    spec = {"organization": "acme", "plan": "starter", "admin": {"email": "ann@acme.example"}}
    return Tenant.model_validate(
        {"metadata": {"name": "banking", "namespace": namespace}, "spec": spec, "status": {"state": state}}
    )


def reasons(
    organization: Organization, *everyone: Organization, tenants: Sequence[Tenant] = (), operator: str = OPERATOR
) -> list[str]:
    return [defect.reason.value for defect in defects(organization, [organization, *everyone], tenants, operator)]


# Hosts.

SLUGS = st.from_regex(r"[ab]([ab-]{0,6}[ab])?", fullmatch=True)
"""Two letters and the dash: nearly all of what could meet is met."""
FIT = SLUGS.filter(lambda slug: not wrong_label(slug))


def host(slug: str, organization: str) -> str:
    return Names(slug, organization, "name", "uid", "tenants.example").host


@given(SLUGS, SLUGS, SLUGS, SLUGS)
def test_organizations_that_do_not_clash_never_have_one_host(slug: str, one: str, other_slug: str, other: str) -> None:
    if host(slug, one) == host(other_slug, other):
        assert slugs_clash(one, other)


@given(SLUGS, st.from_regex(r"[ab]([ab-]{0,4}[ab])?", fullmatch=True), FIT)
def test_organizations_that_clash_could_have_one_host(shorter: str, head: str, slug: str) -> None:
    longer = f"{head}-{shorter}"
    assert slugs_clash(longer, shorter) and slugs_clash(shorter, longer)
    # A slug that begins with `ab--` is refused anyway.
    taken = f"{slug}-{head}"
    assume(not wrong_label(taken))

    assert host(taken, shorter) == host(slug, longer)


@given(SLUGS)
def test_an_organization_clashes_with_its_namesake(slug: str) -> None:
    assert slugs_clash(slug, slug)


@given(SLUGS, SLUGS)
def test_a_clash_is_mutual(one: str, other: str) -> None:
    assert slugs_clash(one, other) is slugs_clash(other, one)


@pytest.mark.parametrize("other", ["cymmetri", "my-cymmetri", "x-y-cymmetri"])
def test_slugs_that_end_alike_after_a_dash_clash(other: str) -> None:
    assert slugs_clash("cymmetri", other)


@pytest.mark.parametrize("other", ["mycymmetri", "cymmetri-my", "cymmetri2", "metri", "cym"])
def test_slugs_that_only_look_alike_do_not(other: str) -> None:
    assert not slugs_clash("cymmetri", other)


ANY_SLUG = (
    st.from_regex(SLUG_PATTERN.replace("$", ""), fullmatch=True)
    .map(lambda slug: slug[:30])
    .filter(lambda slug: re.fullmatch(SLUG_PATTERN, slug) is not None)
)


@given(ANY_SLUG, ANY_SLUG)
def test_no_host_looks_like_an_encoding(slug: str, organization: str) -> None:
    """The label of a host has dashes in its third and fourth place only if the tenant's slug has them: so the rule for
    slugs is enough."""
    label = Names(slug, organization, "name", "uid", "tenants.example").host_label

    assert bool(re.match(RESERVED_LABEL_PATTERN, label)) is bool(re.match(RESERVED_LABEL_PATTERN, slug))
    assert len(label) <= DNS_LABEL_MAX_LENGTH


# Who is at fault.


def test_an_organization_by_itself_has_no_defects() -> None:
    assert reasons(an_organization("acme", home="acme"), an_organization("other"), tenants=[a_tenant("acme")]) == []


def test_of_two_that_clash_the_later_one_is_at_fault() -> None:
    first, later = an_organization("cymmetri", age=9), an_organization("my-cymmetri", age=1)

    assert reasons(first, later) == []
    assert reasons(later, first) == ["SlugTaken"]


def test_equal_slugs_clash() -> None:
    first, later = an_organization("one", slug="acme", age=9), an_organization("acme", age=1)

    assert reasons(later, first) == ["SlugTaken"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b-a", "c-b-a", "d"]), st.integers(0, 2)), min_size=2, max_size=6))
def test_of_any_number_the_first_stays_and_those_that_remain_sound_never_clash(rows: list[tuple[str, int]]) -> None:
    everyone = [an_organization(f"o{n}", slug=slug, age=age) for n, (slug, age) in enumerate(rows)]
    sound = [each for each in everyone if not reasons(each, *everyone)]

    assert sound
    assert not any(slugs_clash(one.slug, other.slug) for one in sound for other in sound if one is not other)


def test_who_came_to_a_namespace_first_keeps_it() -> None:
    """However old the one that moves in is."""
    there = an_organization("young", namespace="shared", home="shared", age=1)
    moves_in = an_organization("old", namespace="shared", home="old", age=99)

    assert reasons(there, moves_in) == []
    assert reasons(moves_in, there) == ["NamespaceTaken"]


def test_of_two_that_come_at_once_the_older_one_has_the_namespace() -> None:
    first, later = (an_organization(name, namespace="shared", age=age) for name, age in (("one", 9), ("two", 1)))

    assert reasons(first, later) == []
    assert reasons(later, first) == ["NamespaceTaken"]


def test_a_namespace_is_not_free_before_whoever_lived_there_has_moved() -> None:
    """Its Tenants are there still."""
    moving = an_organization("acme", namespace="new", home="old")

    assert reasons(an_organization("next", namespace="old"), moving) == ["NamespaceTaken"]


PLACES = st.sampled_from(["x", "y"])


@given(st.lists(st.tuples(PLACES, st.none() | PLACES, st.integers(0, 2)), min_size=2, max_size=5))
def test_those_that_remain_sound_share_no_namespace(rows: list[tuple[str, str | None, int]]) -> None:
    everyone = [an_organization(f"o{n}", namespace=at, home=home, age=age) for n, (at, home, age) in enumerate(rows)]
    sound = [each.spec.namespace for each in everyone if not reasons(each, *everyone)]

    assert len(sound) == len(set(sound))


@pytest.mark.parametrize("name", ["kube-system", "kube-public", "kube-anything", OPERATOR, "tenant-portal-acme"])
def test_a_namespace_of_the_platform_or_of_a_tenant_is_nobodys(name: str) -> None:
    assert reasons(an_organization("acme", namespace=name)) == ["NamespaceReserved"]


@pytest.mark.parametrize("name", ["default", "kubernetes", "tenants", "acme-tenant", "tenant"])
def test_other_names_are_free(name: str) -> None:
    assert reasons(an_organization("acme", namespace=name)) == []


@given(ANY_SLUG, ANY_SLUG)
def test_no_tenant_ever_has_a_namespace_that_an_organization_may_have(slug: str, organization: str) -> None:
    theirs = Names(slug, organization, organization, "uid", "tenants.example").namespace

    assert reasons(an_organization("acme", namespace=theirs)) == ["NamespaceReserved"]


@pytest.mark.parametrize("state", ["Active", "Failed", "Decommissioned"])
def test_whoever_leaves_tenants_behind_has_not_moved(state: str) -> None:
    moved = an_organization("acme", namespace="new", home="old")

    (defect,) = defects(moved, [moved], [a_tenant("old", state), a_tenant("elsewhere")], OPERATOR)

    assert defect.reason == "TenantsLeftBehind"
    assert defect.message == (
        "1 Tenant lives in namespace old, where no member could reach them; keep old, or delete them first"
    )
    assert home_of(moved, [defect]) == "old"
    assert may_have_roles([defect])
    assert home_of(moved, []) == "new"


def test_tenants_planted_elsewhere_hold_nobody_up() -> None:
    assert reasons(an_organization("acme", home="acme"), tenants=[a_tenant("elsewhere")]) == []
    assert reasons(an_organization("acme"), tenants=[a_tenant("elsewhere")]) == []


def test_nobody_gets_roles_in_a_namespace_that_is_not_their_own() -> None:
    first, later = (an_organization(name, namespace="shared", age=age) for name, age in (("one", 9), ("two", 1)))

    for other, everyone in ((later, [first, later]), (an_organization("acme", namespace="kube-system"), [])):
        found = defects(other, everyone, (), OPERATOR)
        assert not may_have_roles(found)
        assert home_of(other, found) is None


def test_who_clashes_by_name_keeps_its_roles() -> None:
    """Its tenants that serve already have to be looked after."""
    first, later = an_organization("cymmetri", age=9), an_organization("my-cymmetri", age=1)

    assert may_have_roles(defects(later, [first], (), OPERATOR))


# What is refused.


def written(old: Organization | None, new: Organization, *others: Organization, **more: Any) -> list[str]:
    found = defects_of_write(old, new, others, more.get("tenants", ()), OPERATOR)
    return [defect.reason.value for defect in found]


def test_whoever_asks_comes_last_however_old_it_says_it_is() -> None:
    there = an_organization("cymmetri", home="cymmetri", age=1)
    forged = an_organization("my-cymmetri", namespace="cymmetri", home="cymmetri", age=10_000)

    assert written(None, forged, there) == ["SlugTaken", "NamespaceTaken"]
    assert written(an_organization("other", age=99), an_organization("other", namespace="cymmetri"), there) == [
        "NamespaceTaken"
    ]


def test_an_update_answers_for_what_it_changes_only() -> None:
    there, clashing = an_organization("cymmetri", age=9), an_organization("my-cymmetri", namespace="kube-system")

    assert written(clashing, clashing, there) == []
    assert written(clashing, an_organization("my-cymmetri", namespace="free"), there) == []


def test_whoever_was_moved_in_spite_of_its_tenants_may_move_back() -> None:
    moved, tenants = an_organization("acme", namespace="new", home="old"), [a_tenant("old")]

    assert written(moved, an_organization("acme", namespace="old"), tenants=tenants) == []
    assert written(moved, an_organization("acme", namespace="third"), tenants=tenants) == ["TenantsLeftBehind"]


def test_a_discreet_word_names_no_other_organization() -> None:
    there = an_organization("secret", slug="hidden", namespace="shared", age=9)
    new = an_organization("my-hidden", namespace="shared")

    found: list[Defect] = defects_of_write(None, new, [there], (), OPERATOR)

    assert len(found) == 2
    for defect in found:
        assert "secret" in defect.told(discreetly=False)
        assert "secret" not in defect.told(discreetly=True)
        assert "'hidden'" not in defect.told(discreetly=True)


def test_whoever_may_be_at_fault_because_of_another_concerns_it() -> None:
    assert concern_each_other(an_organization("cymmetri"), an_organization("my-cymmetri"))
    assert concern_each_other(an_organization("one", namespace="x"), an_organization("two", namespace="y", home="x"))
    assert not concern_each_other(an_organization("one"), an_organization("two"))
