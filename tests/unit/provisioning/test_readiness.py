"""When a rollout is complete, and what is said of one that is not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tenant_operator.ports import Manifest
from tenant_operator.provisioning.readiness import Seen, cause, progress, restarted, rollout, rollouts

REVISION = "deployment.kubernetes.io/revision"
NOW = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)


def a_deployment(
    name: str = "auth",
    *,
    replicas: int = 2,
    generation: int = 3,
    conditions: tuple[dict[str, str], ...] = (),
    **status: int,
) -> Manifest:
    counts = {"observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas}
    return {
        "metadata": {"name": name, "generation": generation},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}},
        "status": {**counts, **status, "conditions": list(conditions)},
    }


def a_pod(name: str = "auth-7d9-x", *, app: str = "auth", going: bool = False, **status: Any) -> Manifest:
    metadata: dict[str, Any] = {"name": name, "labels": {"app": app}}
    if going:
        metadata["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    return {"metadata": metadata, "status": {"phase": "Pending", **status}}


def a_container(state: dict[str, Any], *, restarts: int = 0, last: dict[str, Any] | None = None) -> dict[str, Any]:
    status = {"name": "auth", "image": "auth:1", "ready": False, "restartCount": restarts, "state": state}
    return status if last is None else status | {"lastState": {"terminated": last}}


def a_warning(kind: str, name: str, reason: str, note: str, seen: str = "2026-01-01T12:00:00Z") -> Manifest:
    return {
        "metadata": {"name": f"{name}.1"},
        "type": "Warning",
        "reason": reason,
        "note": note,
        "regarding": {"kind": kind, "name": name},
        "deprecatedLastTimestamp": seen,
    }


def explain(
    *pods: Manifest,
    deployment: Manifest | None = None,
    replica_sets: tuple[Manifest, ...] = (),
    events: tuple[Manifest, ...] = (),
) -> str:
    deployments = [deployment or a_deployment(availableReplicas=0)]
    return cause(rollouts(["auth"], deployments), Seen(NOW, deployments, replica_sets, pods, events))


def test_a_rollout_is_complete_when_every_new_pod_is_available() -> None:
    state = rollout(a_deployment(availableReplicas=2))

    assert state.complete
    assert (state.ready, state.wanted) == (2, 2)


@pytest.mark.parametrize(
    "deployment",
    [
        a_deployment(availableReplicas=2, observedGeneration=2),
        a_deployment(availableReplicas=2, updatedReplicas=1),
        a_deployment(availableReplicas=2, replicas=2) | {"status": {}},
        a_deployment(availableReplicas=1),
    ],
    ids=["an older specification was observed", "a pod is old", "nothing is known", "a pod is not available"],
)
def test_a_rollout_is_not_complete_while(deployment: Manifest) -> None:
    assert not rollout(deployment).complete


def test_old_pods_that_still_run_keep_a_rollout_from_being_complete() -> None:
    deployment = a_deployment(availableReplicas=2)
    deployment["status"]["replicas"] = 3

    assert rollout(deployment).waiting_for == "2 of 2 ready (1 old pods still to go)"


def test_a_workload_that_wants_no_pods_is_complete() -> None:
    assert rollout(a_deployment(replicas=0)).complete


def test_the_deadline_of_a_rollout_is_no_failure_but_is_told() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}

    assert explain(deployment=a_deployment(conditions=(late,))) == (
        "Deployment auth: 0 of 2 ready; ProgressDeadlineExceeded: timed out"
    )


def test_a_workload_that_was_not_found_is_waited_for() -> None:
    states = rollouts(["auth", "worker"], [a_deployment(availableReplicas=2)])

    assert cause(states, Seen(NOW, [])) == "Deployment worker is missing"


def test_a_deployment_that_the_plan_does_not_want_is_not_waited_for() -> None:
    assert all(state.complete for state in rollouts([], [a_deployment(availableReplicas=0)]))


def test_progress_is_the_share_of_ready_pods() -> None:
    half = rollouts(["a", "b"], [a_deployment("a", availableReplicas=2), a_deployment("b", availableReplicas=0)])

    assert progress(half) == 50
    assert progress([]) == 100


def test_a_crash_loop_is_told_with_its_exit_code() -> None:
    container = a_container(
        {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
        restarts=4,
        last={"exitCode": 1, "reason": "Error"},
    )

    assert explain(a_pod(containerStatuses=[container])) == (
        "Deployment auth: 0 of 2 ready; Pod auth-7d9-x: CrashLoopBackOff (exit code 1, 4 restarts)"
    )


def test_running_out_of_memory_is_told() -> None:
    container = a_container(
        {"waiting": {"reason": "CrashLoopBackOff"}}, restarts=1, last={"exitCode": 137, "reason": "OOMKilled"}
    )

    assert "CrashLoopBackOff (OOMKilled, exit code 137, 1 restart)" in explain(a_pod(containerStatuses=[container]))


def test_between_two_crashes_the_last_one_is_told() -> None:
    container = a_container({"running": {}}, restarts=2, last={"exitCode": 3, "reason": "Error"})

    assert "Pod auth-7d9-x: restarted (exit code 3, 2 restarts)" in explain(a_pod(containerStatuses=[container]))


def test_an_image_that_cannot_be_pulled_is_named() -> None:
    container = a_container({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})

    assert "ImagePullBackOff (image auth:1): not found" in explain(a_pod(containerStatuses=[container]))


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_cannot_be_made_is_told(reason: str) -> None:
    container = a_container({"waiting": {"reason": reason, "message": 'secret "x" not found'}})

    assert f'Pod auth-7d9-x: {reason}: secret "x" not found' in explain(a_pod(containerStatuses=[container]))


def test_an_init_container_is_named() -> None:
    init = a_container({"terminated": {"exitCode": 2, "reason": "Error"}}) | {"name": "prepare"}
    main = a_container({"waiting": {"reason": "PodInitializing"}})

    told = explain(a_pod(initContainerStatuses=[init], containerStatuses=[main]))

    assert "Pod auth-7d9-x, container prepare: ended (exit code 2, 0 restarts)" in told


def test_a_pod_without_a_node_is_told() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}

    assert "Pod auth-7d9-x: Unschedulable: 0/3 nodes" in explain(a_pod(conditions=[unscheduled]))


def test_an_evicted_pod_is_told() -> None:
    assert "Pod auth-7d9-x: Evicted: low on memory" in explain(
        a_pod(phase="Failed", reason="Evicted", message="low on memory")
    )


def test_pods_that_may_not_be_created_are_told_by_the_deployment() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: q"}
    deployment = a_deployment(conditions=(refused,), updatedReplicas=0, replicas=2)

    assert explain(deployment=deployment) == (
        "Deployment auth: 0 of 2 ready (0 of 2 pods created); FailedCreate: exceeded quota: q"
    )


def test_the_newest_warning_about_a_pod_is_told() -> None:
    events = (
        a_warning("Pod", "auth-7d9-x", "FailedMount", "no such secret", "2026-01-01T12:00:05Z"),
        a_warning("Pod", "auth-7d9-x", "FailedScheduling", "no nodes", "2026-01-01T12:00:01Z"),
        a_warning("Pod", "other-1", "BackOff", "not ours", "2026-01-01T12:00:09Z"),
        a_warning("Pod", "auth-7d9-x", "Pulled", "fine", "2026-01-01T12:00:09Z") | {"type": "Normal"},
    )
    waiting = a_container({"waiting": {"reason": "ContainerCreating"}})

    told = explain(a_pod(containerStatuses=[waiting]), events=events)

    assert told.endswith("Pod auth-7d9-x: FailedMount: no such secret")


def a_replica_set(name: str, revision: str, deployment: str = "auth") -> Manifest:
    return {
        "metadata": {
            "name": name,
            "annotations": {REVISION: revision},
            "ownerReferences": [{"kind": "Deployment", "name": deployment}],
        }
    }


def revised(revision: str) -> Manifest:
    deployment = a_deployment(availableReplicas=0)
    deployment["metadata"]["annotations"] = {REVISION: revision}
    return deployment


def made_by(replica_set: str, pod: Manifest) -> Manifest:
    pod["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": replica_set}]
    return pod


SETS = (a_replica_set("auth-old", "1"), a_replica_set("auth-new", "2"), a_replica_set("worker-new", "2", "worker"))


def test_a_warning_about_the_replica_set_is_told_while_there_are_no_pods() -> None:
    events = (
        a_warning("ReplicaSet", "auth-new", "FailedCreate", "violates PodSecurity"),
        a_warning("ReplicaSet", "auth-old", "FailedCreate", "exceeded quota", "2026-01-01T12:00:30Z"),
    )

    told = explain(deployment=revised("2"), replica_sets=SETS, events=events)

    assert told.endswith("ReplicaSet auth-new: FailedCreate: violates PodSecurity")


def test_what_old_pods_suffer_from_is_not_blamed_on_new_ones() -> None:
    crashing = [a_container({"waiting": {"reason": "CrashLoopBackOff"}}, restarts=4)]
    waiting = [a_container({"waiting": {"reason": "ContainerCreating"}})]

    told = explain(
        made_by("auth-old", a_pod("auth-old-1", containerStatuses=crashing)),
        made_by("auth-new", a_pod("auth-new-1", containerStatuses=waiting)),
        deployment=revised("2"),
        replica_sets=SETS,
        events=(a_warning("Pod", "auth-old-1", "BackOff", "restarting failed container"),),
    )

    assert told == "Deployment auth: 0 of 2 ready"


def test_an_old_warning_is_about_the_past() -> None:
    events = (a_warning("Pod", "auth-7d9-x", "FailedMount", "no such secret", "2026-01-01T11:50:00Z"),)

    assert explain(a_pod(), events=events) == "Deployment auth: 0 of 2 ready"


def test_nothing_is_blamed_before_a_changed_deployment_was_looked_at() -> None:
    crashing = [a_container({"waiting": {"reason": "CrashLoopBackOff"}}, restarts=4)]

    told = explain(
        a_pod(containerStatuses=crashing), deployment=a_deployment(availableReplicas=2, observedGeneration=2)
    )

    assert told == "Deployment auth: 0 of 2 ready (not observed yet)"


def test_a_rollout_that_somebody_paused_is_said_to_be() -> None:
    deployment = a_deployment(availableReplicas=2)
    deployment["spec"]["paused"] = True

    assert explain(deployment=deployment) == "Deployment auth: 2 of 2 ready (its rollout is paused: spec.paused)"


@pytest.mark.parametrize(("seconds", "counts"), [(9, True), (11, False)])
def test_a_container_that_was_restarted_a_moment_ago_is_told(seconds: int, *, counts: bool) -> None:
    ended = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T12:00:00Z"}
    pods = [a_pod(containerStatuses=[a_container({"running": {}}, restarts=2, last=ended)])]
    now = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=seconds)

    told = restarted(pods, timedelta(seconds=10), now)

    assert told == ("Pod auth-7d9-x, container auth: restarted (exit code 1, 2 restarts)" if counts else "")


def test_a_pod_that_goes_or_was_never_restarted_is_no_reason_to_wait() -> None:
    ended = {"exitCode": 1, "finishedAt": "2026-01-01T12:01:00Z"}
    going = a_pod(going=True, containerStatuses=[a_container({"running": {}}, restarts=2, last=ended)])

    assert restarted([going, a_pod(containerStatuses=[a_container({"running": {}})])], timedelta(seconds=10), NOW) == ""


def test_a_pod_that_merely_does_not_answer_is_told() -> None:
    unready = {"type": "Ready", "status": "False", "message": "containers with unready status: [auth]"}

    assert explain(a_pod(conditions=[unready])).endswith("Pod auth-7d9-x: containers with unready status: [auth]")


def test_pods_that_are_going_or_belong_to_another_workload_are_not_blamed() -> None:
    crashing = [a_container({"waiting": {"reason": "CrashLoopBackOff"}})]

    told = explain(
        a_pod("auth-old", going=True, containerStatuses=crashing),
        a_pod("worker-1", app="worker", containerStatuses=crashing),
    )

    assert told == "Deployment auth: 0 of 2 ready"


def test_every_workload_that_is_not_ready_is_told() -> None:
    deployments = [a_deployment("a", availableReplicas=0), a_deployment("b", availableReplicas=2)]
    states = rollouts(["a", "b", "c"], deployments)

    assert cause(states, Seen(NOW, deployments)) == "Deployment a: 0 of 2 ready. Deployment c is missing"


def test_a_message_of_the_cluster_is_quoted_in_one_line_of_bounded_length() -> None:
    container = a_container({"waiting": {"reason": "RunContainerError", "message": "line\n" * 1000}})

    told = explain(a_pod(containerStatuses=[container]))

    assert "\n" not in told
    assert len(told) < 400


@pytest.mark.parametrize("hidden", ["\x1b[2J\x1b[1;1H", "\x07", "\u202e", "\u200b", "\x9b"])
def test_what_a_pod_says_commands_no_terminal(hidden: str) -> None:
    ended = {"exitCode": 1, "message": f"all is{hidden} well"}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}

    told = explain(a_pod(containerStatuses=[a_container(waiting, restarts=3, last=ended)]))

    assert told.isprintable()
    assert "all is�" in told
