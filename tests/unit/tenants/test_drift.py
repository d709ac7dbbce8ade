"""What makes one look whether somebody else has changed what a tenant is made of."""

from typing import Any

import pytest

from tenant_operator.tenants.drift import DriftWatch

Fields = dict[str, Any]
Entry = dict[str, Any]

SPEC: Fields = {"f:spec": {"f:replicas": {}, "f:paused": {}}}
LABELS: Fields = {"f:metadata": {"f:labels": {"f:intelliauth.io/tenant-uid": {}}}}


def ours(second: int = 0, fields: Fields | None = None) -> Entry:
    return _entry("tenant-operator", second, fields or {**LABELS, **SPEC}, operation="Apply")


def theirs(second: int = 5, fields: Fields | None = None, subresource: str = "") -> Entry:
    return _entry("kubectl-edit", second, fields or {"f:spec": {"f:replicas": {}}}, subresource=subresource)


def _entry(manager: str, second: int, fields: Fields, **more: str) -> Entry:
    time = f"2026-01-01T00:00:{second:02}Z"
    return {"manager": manager, "operation": "Update", "time": time, "fieldsV1": fields, **more}


def child(*entries: Entry) -> dict[str, Any]:
    """An object with those managed fields."""
    return {"metadata": {"uid": "u", "managedFields": list(entries)}}


def after(*entries: Entry) -> DriftWatch:
    """A watch that has seen it with those."""
    watch = DriftWatch()
    watch.is_drift("ADDED", child(*entries))
    return watch


def test_what_others_have_changed_before_it_was_seen_first_is_suspected() -> None:
    assert DriftWatch().is_drift(None, child(ours(), theirs()))
    assert not DriftWatch().is_drift(None, child(ours()))


def test_a_change_by_others_is_suspected_once() -> None:
    watch = after(ours())

    assert watch.is_drift("MODIFIED", child(ours(), theirs()))
    assert not watch.is_drift("MODIFIED", child(ours(), theirs()))
    assert watch.is_drift("MODIFIED", child(ours(), theirs(9)))


def test_an_own_change_is_no_drift() -> None:
    assert not after(ours()).is_drift("MODIFIED", child(ours(9)))


def test_what_is_taken_away_leaves_nobody_as_its_owner() -> None:
    less = {**LABELS, "f:spec": {"f:replicas": {}}}

    assert after(ours()).is_drift("MODIFIED", child(ours(fields=less)))
    assert not after(ours()).is_drift("MODIFIED", child(ours(9, less))), "an apply that names less"


@pytest.mark.parametrize(
    "harmless",
    [
        theirs(subresource="status"),
        theirs(fields={"f:metadata": {"f:annotations": {"f:note": {}}}}),
        theirs(fields={"f:metadata": {"f:labels": {"f:team": {}}}}),
        theirs(fields={"f:status": {"f:replicas": {}}}),
    ],
    ids=["a status", "an annotation", "a label", "a status by itself"],
)
def test_what_others_may_write_is_no_drift(harmless: Entry) -> None:
    assert not after(ours()).is_drift("MODIFIED", child(ours(), harmless))


@pytest.mark.parametrize("label", ["intelliauth.io/tenant-uid", "app.kubernetes.io/managed-by"])
def test_our_labels_are_ours(label: str) -> None:
    taken = theirs(fields={"f:metadata": {"f:labels": {f"f:{label}": {}}}})

    assert after(ours()).is_drift("MODIFIED", child(ours(fields=SPEC), taken))


def test_scaling_is_drift() -> None:
    scaled = theirs(subresource="scale")
    del scaled["time"]

    assert after(ours()).is_drift("MODIFIED", child(ours(fields=LABELS), scaled))


def test_what_was_forgotten_is_seen_for_the_first_time() -> None:
    watch = after(ours(), theirs())
    watch.forget(child(ours()))

    assert watch.is_drift("MODIFIED", child(ours(), theirs()))


def test_a_deletion_is_drift() -> None:
    assert DriftWatch().is_drift("DELETED", child(ours()))
