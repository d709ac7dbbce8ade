"""Whether workloads have rolled out, as `kubectl rollout status` tells it, and why they have not."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tenant_operator.ports import Manifest
from tenant_operator.provisioning.objects import is_going
from tenant_operator.text import cut

MESSAGE_LIMIT: Final = 300
"""Characters that are quoted of a message of the cluster."""
_FRESH: Final = timedelta(minutes=10)
"""What ails a pod is warned of again within that time."""
_REVISION: Final = "deployment.kubernetes.io/revision"

# A container that waits for these is on its way; for anything else, it is in trouble.
_ON_ITS_WAY: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in a tenant's namespace at a time, in any order; `events` are of events.k8s.io/v1."""

    now: datetime
    deployments: Sequence[Manifest]
    replica_sets: Sequence[Manifest] = ()
    pods: Sequence[Manifest] = ()
    events: Sequence[Manifest] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a Deployment is: pods of its newest version that are available, of those wanted. `waiting_for` is empty
    once it has rolled out."""

    name: str
    ready: int
    wanted: int
    waiting_for: str = ""

    @property
    def complete(self) -> bool:
        return not self.waiting_for


def rollout(deployment: Manifest) -> Rollout:
    """How far the Deployment is."""
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    name: str = deployment["metadata"]["name"]
    wanted = _number(spec, "replicas", 1)
    updated, available = _number(status, "updatedReplicas"), _number(status, "availableReplicas")
    total = _number(status, "replicas")
    ready = min(updated, available, wanted)
    if not _is_observed(deployment):
        return Rollout(name, 0, wanted, f"0 of {wanted} ready (not observed yet)")
    if spec.get("paused"):
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready (its rollout is paused: spec.paused)")
    if updated < wanted:
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready ({updated} of {wanted} pods created)")
    if total > updated:
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready ({total - updated} old pods still to go)")
    if available < updated:
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready")
    return Rollout(name, wanted, wanted)


def lacks_pods(deployment: Manifest) -> bool:
    """Whether fewer of its pods are available than it is to have, or none."""
    wanted = _number(deployment.get("spec") or {}, "replicas", 1)
    return _number(deployment.get("status") or {}, "availableReplicas") < max(wanted, 1)


def has_pods(deployment: Manifest) -> bool:
    """Whether a pod of it is available, old ones counted."""
    return _number(deployment.get("status") or {}, "availableReplicas") > 0


def rollouts(wanted: Sequence[str], deployments: Sequence[Manifest]) -> list[Rollout]:
    """How far the Deployments of these names are; one that does not exist waits to be created."""
    found = {_name(each): each for each in deployments}
    return [rollout(found[name]) if name in found else Rollout(name, 0, 1, "is missing") for name in wanted]


def progress(states: Sequence[Rollout]) -> int:
    """Percent of the pods that are ready."""
    wanted = sum(state.wanted for state in states)
    return 100 * sum(state.ready for state in states) // wanted if wanted else 100


def _is_observed(deployment: Manifest) -> bool:
    """Whether the status is about the specification as it is now."""
    seen = _number(deployment.get("status") or {}, "observedGeneration")
    return seen >= _number(deployment["metadata"], "generation")


def restarted(pods: Sequence[Manifest], within: timedelta, now: datetime) -> str:
    """Which container was restarted within that time: its pod may have been ready all the while, as far as anybody
    looked. Empty if none was."""
    for pod in sorted(pods, key=_name):
        if is_going(pod):
            continue
        for container in _containers(pod):
            last = (container.get("lastState") or {}).get("terminated") or {}
            if now - _moment(last.get("finishedAt")) < within:
                ending = _ending(last, _number(container, "restartCount"))
                return _printable(f"Pod {_name(pod)}, container {container.get('name')}: restarted ({ending})")
    return ""


def cause(states: Sequence[Rollout], seen: Seen) -> str:
    """Why the rollouts are not complete: the object, the pod and what ails it, most telling first. Empty if all is
    complete."""
    found = {_name(each): each for each in seen.deployments}
    lines = []
    for state in states:
        if state.complete:
            continue
        line = f"Deployment {state.name}{' ' if state.waiting_for == 'is missing' else ': '}{state.waiting_for}"
        deployment = found.get(state.name)
        trouble = _trouble(deployment, seen) if deployment is not None and _is_observed(deployment) else ""
        lines.append(f"{line}; {trouble}" if trouble else line)
    return _printable(". ".join(lines))


def _trouble(deployment: Manifest, seen: Seen) -> str:
    """What ails the newest pods; older ones are on their way out, and what they did is the past."""
    selector = ((deployment.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    own = [pod for pod in seen.pods if selector and selector.items() <= (pod["metadata"].get("labels") or {}).items()]
    newest = _newest_replica_set(deployment, seen.replica_sets)
    if newest is not None:
        own = [pod for pod in own if _is_made_by(pod, "ReplicaSet", newest)]
    return (
        next(_pod_troubles(own), "")
        or _condition_message(deployment, "ReplicaFailure", "True")
        or _latest_warning(seen, "Pod", {_name(pod) for pod in own})
        or (_latest_warning(seen, "ReplicaSet", {newest}) if newest is not None and not own else "")
        or _not_ready(own)
        or _deadline(deployment)
    )


def _newest_replica_set(deployment: Manifest, replica_sets: Sequence[Manifest]) -> str | None:
    """The name of the ReplicaSet that the Deployment makes its pods by now."""

    def revision(manifest: Manifest) -> str | None:
        number: str | None = (manifest["metadata"].get("annotations") or {}).get(_REVISION)
        return number

    own = (each for each in replica_sets if _is_made_by(each, "Deployment", _name(deployment)))
    return next((_name(each) for each in own if revision(each) == revision(deployment)), None)


def _is_made_by(manifest: Manifest, kind: str, name: str) -> bool:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return any(each.get("kind") == kind and each.get("name") == name for each in owners)


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def _containers(pod: Manifest) -> list[Mapping[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _pod_troubles(pods: Sequence[Manifest]) -> Iterator[str]:
    """What pods say is wrong with them. Those that are being deleted belong to the past."""
    for pod in sorted(pods, key=_name):
        if is_going(pod):
            continue
        status, name, containers = pod.get("status") or {}, _name(pod), _containers(pod)
        for container in containers:
            trouble = _container_trouble(container)
            if trouble:
                which = f", container {container.get('name')}" if len(containers) > 1 else ""
                yield f"Pod {name}{which}: {trouble}"
        if status.get("phase") == "Failed":
            yield f"Pod {name}: {status.get('reason') or 'Failed'}{_after_colon(status.get('message'))}"
        unscheduled = _condition(pod, "PodScheduled", "False")
        if unscheduled is not None:
            reason = unscheduled.get("reason") or "Unschedulable"
            yield f"Pod {name}: {reason}{_after_colon(unscheduled.get('message'))}"


def _container_trouble(container: Mapping[str, Any]) -> str:
    state = container.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    last = (container.get("lastState") or {}).get("terminated")
    restarts = _number(container, "restartCount")
    if waiting is not None:
        reason = waiting.get("reason") or ""
        if reason == "CrashLoopBackOff":
            return f"{reason} ({_ending(last, restarts)})"
        if reason in {"ImagePullBackOff", "ErrImagePull", "InvalidImageName"}:
            return f"{reason} (image {container.get('image', '?')}){_after_colon(waiting.get('message'))}"
        if reason not in _ON_ITS_WAY:
            return f"{reason}{_after_colon(waiting.get('message'))}"
    if ended is not None and (_number(ended, "exitCode") or ended.get("reason") == "OOMKilled"):
        return f"ended ({_ending(ended, restarts)})"
    if last is not None and restarts and not container.get("ready"):
        return f"restarted ({_ending(last, restarts)})"
    return ""


def _ending(terminated: Mapping[str, Any] | None, restarts: int) -> str:
    parts = []
    if terminated is not None:
        reason = terminated.get("reason")
        if reason and reason != "Error":
            parts.append(str(reason))
        parts.append(f"exit code {_number(terminated, 'exitCode')}")
        message = _short(terminated.get("message"))
        if message:
            parts.append(message)
    parts.append(f"{restarts} restart{'' if restarts == 1 else 's'}")
    return ", ".join(parts)


def _latest_warning(seen: Seen, kind: str, names: Collection[str]) -> str:
    """The newest Warning about one of the objects. Events are kept for an hour: an old one is about the past."""

    def is_about(event: Manifest) -> bool:
        subject = event.get("regarding") or {}
        return subject.get("kind") == kind and subject.get("name") in names

    warnings = [event for event in seen.events if event.get("type") == "Warning" and is_about(event)]
    newest = max(warnings, key=_last_seen, default=None)
    if newest is None or seen.now - _last_seen(newest) > _FRESH:
        return ""
    return (
        f"{kind} {newest['regarding']['name']}: {newest.get('reason') or 'Warning'}{_after_colon(newest.get('note'))}"
    )


def _last_seen(event: Manifest) -> datetime:
    seen = (event.get("series") or {}).get("lastObservedTime") or event.get("deprecatedLastTimestamp")
    return _moment(seen or event.get("eventTime") or event["metadata"].get("creationTimestamp"))


def _moment(text: object) -> datetime:
    """A time as Kubernetes writes it; the beginning of time if there is none."""
    return datetime.fromisoformat(str(text)) if text else datetime.min.replace(tzinfo=UTC)


def _not_ready(pods: Sequence[Manifest]) -> str:
    for pod in sorted(pods, key=_name):
        ready = _condition(pod, "Ready", "False")
        if ready is not None and not is_going(pod):
            said = ready.get("message") or ready.get("reason") or "not ready"
            return f"Pod {_name(pod)}: {_short(said)}"
    return ""


def _deadline(deployment: Manifest) -> str:
    stuck = _condition(deployment, "Progressing", "False")
    if stuck is None:
        return ""
    return f"{stuck.get('reason') or 'not progressing'}{_after_colon(stuck.get('message'))}"


def _condition_message(manifest: Manifest, type_: str, status: str) -> str:
    condition = _condition(manifest, type_, status)
    if condition is None:
        return ""
    return f"{condition.get('reason') or type_}{_after_colon(condition.get('message'))}"


def _condition(manifest: Manifest, type_: str, status: str) -> Mapping[str, Any] | None:
    conditions: Sequence[Mapping[str, Any]] = (manifest.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == type_ and each.get("status") == status), None)


def _number(mapping: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = mapping.get(key)
    return default if value is None else int(value)


def _printable(text: str) -> str:
    """`text` without what a terminal would obey: whoever writes what a pod says may be the one who attacks it."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _after_colon(message: object) -> str:
    text = _short(message)
    return f": {text}" if text else ""


def _short(message: object) -> str:
    return cut(" ".join(str(message or "").split()), MESSAGE_LIMIT)
