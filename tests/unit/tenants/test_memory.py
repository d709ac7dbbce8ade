"""One slot per Tenant: never back in time, nothing of another's, nothing of one that is gone."""

import pytest

from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, key_of
from tenant_operator.saga.sight import Kept
from tenant_operator.tenants.journal import saga_of
from tenant_operator.tenants.lifecycle import asks_for_nothing, demand
from tenant_operator.tenants.memory import TenantMemory
from tests.unit.tenants.a_tenant import tenant
from tests.unit.tenants.tenant_states import tenant_states

MINE = TenantKey("cymmetri", "banking")
FORMER = "uid-of-a-former-life"


def versions(version: int, uid: str = "one") -> Tenant:
    known = tenant(version=version)
    return known.model_copy(update={"metadata": known.metadata.model_copy(update={"uid": uid})})


def seen(*tenants: Tenant) -> tuple[list[bool], Tenant | None]:
    memory = TenantMemory()
    news = [memory.observe(each) for each in tenants]
    return news, memory.get(MINE)


def test_what_is_known_never_goes_back_in_time() -> None:
    news, newest = seen(versions(9), versions(10), versions(9), versions(10))
    assert news == [True, True, False, False]
    assert newest == versions(10)


def test_a_new_tenant_of_the_same_name_is_news() -> None:
    news, newest = seen(versions(9, "one"), versions(12, "two"))
    assert news == [True, True]
    assert newest == versions(12, "two")


def test_the_late_answer_about_a_former_tenant_does_not_hide_its_successor() -> None:
    news, newest = seen(versions(9, "one"), versions(12, "two"), versions(10, "one"))
    assert newest == versions(12, "two")
    assert news == [True, True, False]


def test_only_the_tenant_that_is_gone_is_forgotten() -> None:
    memory = TenantMemory()
    memory.observe(versions(12, "two"))
    assert not memory.forget(MINE, "one")
    assert memory.get(MINE) is not None
    assert memory.forget(MINE, "two")
    assert (memory.get(MINE), len(memory), memory.key_of_identity("two")) == (None, 0, None)


def test_a_slot_lasts_from_version_to_version() -> None:
    memory, first = TenantMemory(), versions(9)
    memory.observe(first)
    memory.slot(first).kept = Kept(has_lost=True)
    memory.cannot_be_read(MINE, "one")
    memory.observe(versions(10))
    assert memory.slot(versions(10)).kept == Kept(has_lost=True)


@pytest.mark.parametrize("can_be_read", [True, False])
def test_whoever_takes_anothers_place_begins_with_an_empty_slot(*, can_be_read: bool) -> None:
    memory, former, successor = TenantMemory(), versions(9), versions(12, "two")
    memory.observe(former)
    memory.adopt(former, FORMER)
    memory.slot(former).tended.is_due = True
    if can_be_read:
        memory.observe(successor)
    else:
        memory.cannot_be_read(MINE, "two")
    assert not memory.slot(successor).tended.is_due
    assert memory.key_of_identity(FORMER) is None
    assert memory.key_of_identity("one") is None


def test_what_is_noted_of_one_that_is_gone_is_lost() -> None:
    memory, gone = TenantMemory(), versions(9)
    memory.observe(gone)
    memory.forget(MINE, "one")
    memory.slot(gone).kept = Kept(has_lost=True)
    memory.adopt(gone, FORMER)
    assert memory.slot(gone).kept is None
    assert memory.key_of_identity(FORMER) is None


def test_a_tenant_is_found_by_the_identity_that_it_has_adopted_as_long_as_it_has_it() -> None:
    memory, adopter = TenantMemory(), versions(9)
    memory.observe(adopter)
    memory.adopt(adopter, FORMER)
    assert (memory.key_of_identity(FORMER), memory.key_of_identity("one")) == (MINE, MINE)
    memory.adopt(adopter, None)
    assert (memory.key_of_identity(FORMER), memory.key_of_identity("one")) == (None, MINE)
    memory.adopt(adopter, FORMER)
    memory.forget(MINE, "one")
    assert memory.key_of_identity(FORMER) is None


@pytest.mark.parametrize("state", tenant_states())
def test_a_tenant_at_rest_is_remembered_as_it_was(state: str) -> None:
    manifest = tenant_states()[state]
    resting = Tenant.model_validate(manifest)
    memory, told = TenantMemory(), []
    memory.observe(resting)
    memory.on_change = lambda before, after: told.append((before, after))
    memory.rest(resting)
    key = key_of(resting)
    assert memory.get(key) == resting
    assert memory.get(key) is not resting, "packed"
    known = memory.known(key)
    assert known is not None
    surface = ("state", "attempt", "organization_slug")
    assert [getattr(known.status, name) for name in surface] == [getattr(resting.status, name) for name in surface]
    assert (known.metadata, known.spec, known.slug) == (resting.metadata, resting.spec, resting.slug)
    assert bool(known.status.allocations) is bool(resting.status.allocations)
    assert [*memory.of_organization(resting.spec.organization), *memory.with_slug(resting.slug)] == [known, known]
    assert list(memory.at_work()) == []
    assert told == [], "nobody's numbers have changed"


def test_whatever_changes_about_a_tenant_at_rest_is_whole_again() -> None:
    memory, resting = TenantMemory(), versions(9)
    memory.observe(resting)
    memory.rest(resting)
    assert not memory.observe(versions(9)), "an echo"
    assert list(memory.at_work()) == []
    changed = versions(10)
    assert memory.observe(changed)
    assert list(memory.at_work()) == [changed]
    memory.rest(resting)
    assert memory.get(MINE) is changed, "that one is at work"


@pytest.mark.parametrize("state", tenant_states())
def test_whoever_asks_for_nothing_has_nothing_to_demand(state: str) -> None:
    """Else a saga would never begin: its journal is not even read."""
    quiet = Tenant.model_validate(tenant_states()[state])
    if asks_for_nothing(quiet):
        saga = saga_of(quiet)
        assert demand(quiet, saga, str, held=False) == []
        assert saga.run is not None
        assert saga.run.finished
    elif state.partition("-")[0] in ("active", "suspended"):
        saga = saga_of(quiet)
        is_at_work = saga.run is not None and not saga.run.finished
        assert is_at_work or demand(quiet, saga, str, held=False), "thousands of serving tenants cost nothing"
