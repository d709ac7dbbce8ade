"""Ledgers, cluster and PostgreSQL held against each other."""

from datetime import UTC, datetime

import pytest

from tenant_operator.api.states import AllocationState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import Allocation, TenantStatus
from tenant_operator.orphans import as_json, chosen, table
from tenant_operator.ports import StoredItem
from tenant_operator.provisioning.claims import marked
from tenant_operator.provisioning.manifests import claim
from tenant_operator.provisioning.orphans import Finding, Thing, Verdict, compare, owner, things_of
from tenant_operator.saga.errors import Rejected
from tests.unit.tenants.a_tenant import NAMES, UID, tenant

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FORMER = "7f0c8c2e-0000-4000-8000-00000000beef"
SPACE = Thing("Namespace", NAMES.namespace, UID, "cymmetri/banking")
DATABASE = Thing("PostgresDatabase", NAMES.database, UID)
ROLE = Thing("PostgresRole", NAMES.database, UID)


def row(thing: Thing, state: AllocationState = AllocationState.ALLOCATED) -> Allocation:
    return Allocation(kind=thing.kind, name=thing.name, activity="x", state=state, since=NOW, reserved_at=NOW)


def holding(*things: Thing, **changes: object) -> Tenant:
    rows = tuple(row(each) for each in things)
    return tenant(TenantStatus(tenant_id=UID, record_uid=UID, allocations=rows).model_copy(update=changes))


def test_all_that_is_listed_and_there_is_no_finding() -> None:
    things = {SPACE, DATABASE, ROLE}
    assert compare(things, [holding(*things)], things) == []


def test_what_nobody_owns_is_an_orphan_with_the_name_of_whom_it_was() -> None:
    things = {SPACE, DATABASE}
    assert compare(things, [], things) == [
        Finding(Verdict.ORPHAN, "Namespace", NAMES.namespace, UID, "cymmetri/banking"),
        Finding(Verdict.ORPHAN, "PostgresDatabase", NAMES.database, UID, "cymmetri/banking"),
    ]


def test_what_a_ledger_does_not_know_is_unlisted() -> None:
    (found,) = compare({SPACE, DATABASE}, [holding(SPACE)], {SPACE, DATABASE})
    assert (found.verdict, found.name, found.tenant) == (Verdict.UNLISTED, NAMES.database, "cymmetri/banking")


def test_what_a_ledger_has_and_is_not_there_is_missing() -> None:
    (found,) = compare({SPACE}, [holding(SPACE, DATABASE)], {SPACE})
    assert (found.verdict, found.name, found.uid) == (Verdict.MISSING, NAMES.database, UID)


@pytest.mark.parametrize("state", [each for each in AllocationState if each is not AllocationState.ALLOCATED])
def test_what_is_on_its_way_is_not_missing(state: AllocationState) -> None:
    assert compare({SPACE}, [holding(SPACE, allocations=(row(SPACE), row(DATABASE, state)))], {SPACE}) == []


def test_what_comes_or_goes_while_it_is_looked_for_is_no_finding() -> None:
    assert compare({DATABASE}, [], set()) == compare(set(), [], {DATABASE}) == []
    assert compare({DATABASE}, [holding(DATABASE)], set()) == compare(set(), [holding(DATABASE)], {DATABASE}) == []


def test_whoever_might_own_something_owns_it() -> None:
    """By UID, by the identity in the status, or by being in the place of the one that did."""
    restored = holding(tenant_id=FORMER)
    assert owner([restored], UID) is owner([restored], FORMER) is restored
    nothing_told = tenant(TenantStatus())
    assert owner([nothing_told], FORMER, "cymmetri/banking") is nothing_told
    assert owner([nothing_told], FORMER, "cymmetri/other") is owner([nothing_told], FORMER) is None
    # The database of a restored Tenant is found by what the namespace of the same identity remembers.
    things = {Thing("Namespace", NAMES.namespace, FORMER, "cymmetri/banking"), Thing("PostgresRole", "r", FORMER)}
    assert {each.verdict for each in compare(things, [nothing_told], things)} == {Verdict.UNLISTED}


def test_things_are_what_was_made_for_tenants() -> None:
    foreign = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    space = marked(claim(NAMES), tenant(), served=True)
    items = [StoredItem("PostgresDatabase", NAMES.database, UID)]
    assert things_of([space, foreign], items) == {SPACE, DATABASE}


def test_findings_are_printed_for_people_and_for_machines() -> None:
    findings = compare({DATABASE}, [], {DATABASE})
    heading, line = table(findings).splitlines()
    assert heading.split() == ["VERDICT", "KIND", "NAME", "UID", "TENANT"]
    assert line.split() == ["Orphan", "PostgresDatabase", NAMES.database, UID, "-"]
    assert '"verdict": "Orphan"' in as_json(findings)
    assert as_json([]) == "[]"


def test_only_orphans_can_be_chosen() -> None:
    findings = compare({SPACE, DATABASE}, [holding(SPACE)], {SPACE, DATABASE})
    with pytest.raises(Rejected, match=f"no orphan carries the UID {UID}"):
        chosen(findings, [UID])
    assert chosen(compare({SPACE}, [], {SPACE}), [UID]) != []
