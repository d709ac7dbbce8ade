"""What a tenant's namespace remembers, and whom it is believed to belong to."""

from collections.abc import Mapping
from typing import Any

import pytest

from tenant_operator.api.names import ANNOTATION_ATTEMPT, ANNOTATION_RECORD, ANNOTATION_SERVED, LABEL_MANAGED_BY
from tenant_operator.api.tenant_status import TenantStatus
from tenant_operator.ports import Manifest
from tenant_operator.provisioning.claims import claim_of, is_own, marked, says
from tenant_operator.provisioning.manifests import claim
from tests.unit.tenants.a_tenant import NAMES, UID, tenant

FORMER = "7f0c8c2e-0000-4000-8000-00000000beef"


def namespace(uid: str = UID, served: bool = True, labels: Mapping[str, str] | None = None) -> Manifest:
    made = marked(claim(NAMES), tenant(TenantStatus(attempt=3)), served=served)
    changed = {f"intelliauth.io/{name}": value for name, value in (labels or {}).items()}
    made["metadata"]["labels"] |= {"intelliauth.io/tenant-uid": uid, **changed}
    return made


def test_it_remembers_whose_it_is_how_often_and_whether_it_has_served() -> None:
    found = claim_of(namespace())
    assert found is not None
    assert (found.uid, found.record, found.organization, found.slug) == (UID, "cymmetri/banking", "cymmetri", "banking")
    assert (found.attempt, found.served) == (3, True)
    unserved = claim_of(namespace(served=False))
    assert unserved is not None and not unserved.served
    assert says(namespace(), namespace()) and not says(namespace(served=False), namespace())


@pytest.mark.parametrize("attempt", ["", "many", "-1", "²", "1e3"])
def test_a_number_that_is_none_counts_as_nothing(attempt: str) -> None:
    made = namespace()
    made["metadata"]["annotations"][ANNOTATION_ATTEMPT] = attempt
    found = claim_of(made)
    assert found is not None and found.attempt == 0


def test_what_the_operator_did_not_make_is_no_claim() -> None:
    made = namespace()
    del made["metadata"]["labels"][LABEL_MANAGED_BY]
    assert claim_of(made) is None
    assert claim_of({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}) is None


@pytest.mark.parametrize(
    ("uid", "changes", "expected"),
    [
        (UID, {}, True),
        (UID, {"organization": "other"}, True),
        (FORMER, {}, True),
        (FORMER, {"organization": "other"}, False),
        (FORMER, {"tenant": "other"}, False),
    ],
)
def test_it_is_its_tenants_by_uid_or_by_all_that_a_tenant_cannot_choose(
    uid: str, changes: dict[str, str], expected: bool
) -> None:
    found = claim_of(namespace(uid, labels=changes))
    assert found is not None and is_own(found, tenant()) is expected


@pytest.mark.parametrize("record", ["cymmetri/other", "other/banking", "", "banking"])
def test_a_namespace_of_another_record_is_not_taken_over(record: str) -> None:
    made = namespace(FORMER)
    made["metadata"]["annotations"][ANNOTATION_RECORD] = record
    found = claim_of(made)
    assert found is not None and not is_own(found, tenant())


def test_nothing_that_a_tenant_says_of_itself_counts() -> None:
    made: dict[str, Any] = namespace(FORMER)
    made["metadata"]["annotations"] = {ANNOTATION_SERVED: "true"}
    found = claim_of(made)
    boaster = tenant(TenantStatus(tenant_id=FORMER, record_uid=UID), record="cymmetri/banking")
    assert found is not None and not is_own(found, boaster)
