"""What counts as drift: another hand on what a tenant is made of."""

from typing import Any

from tenant_operator.tenants.drift import DriftWatch


def child(generation: int, *hands: tuple[str, str], subresource: str = "") -> dict[str, Any]:
    """A Deployment at a generation, with who wrote to it when."""
    fields = [{"manager": manager, "time": time, "subresource": subresource} for manager, time in hands]
    return {"metadata": {"uid": "u", "generation": generation, "managedFields": fields}}


OURS = ("tenant-operator", "2026-01-01T00:00:00Z")
THEIRS = ("kubectl-edit", "2026-01-01T00:00:05Z")


def test_what_is_seen_for_the_first_time_is_no_drift() -> None:
    assert not DriftWatch().is_drift(None, child(7, OURS, THEIRS))


def test_a_change_by_another_hand_is_drift() -> None:
    watch = DriftWatch()
    watch.is_drift("ADDED", child(1, OURS))
    assert watch.is_drift("MODIFIED", child(2, OURS, THEIRS))


def test_an_own_change_is_no_drift() -> None:
    watch = DriftWatch()
    watch.is_drift("ADDED", child(1, OURS))
    assert not watch.is_drift("MODIFIED", child(2, ("tenant-operator", "2026-01-01T00:00:09Z"), THEIRS))


def test_a_change_of_the_status_is_no_drift() -> None:
    watch = DriftWatch()
    watch.is_drift("ADDED", child(1, OURS))
    assert not watch.is_drift("MODIFIED", child(1, THEIRS, subresource="status"))
    assert not watch.is_drift("MODIFIED", child(1, OURS, THEIRS))


def test_scaling_is_drift() -> None:
    watch = DriftWatch()
    watch.is_drift("ADDED", child(1, OURS))
    scaled = child(2, OURS)
    scaled["metadata"]["managedFields"].append({"manager": "kubectl", "subresource": "scale"})
    assert watch.is_drift("MODIFIED", scaled)


def test_what_was_forgotten_is_seen_for_the_first_time() -> None:
    watch = DriftWatch()
    watch.is_drift("ADDED", child(1, OURS))
    watch.forget(child(1, OURS))
    assert not watch.is_drift("MODIFIED", child(2, OURS, THEIRS))


def test_a_deletion_is_drift() -> None:
    assert DriftWatch().is_drift("DELETED", child(1, OURS))
