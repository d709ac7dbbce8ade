"""Whether workloads have rolled out, as `kubectl rollout status` tells it, and why they have not."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenant_operator.ports import Manifest
from tenant_operator.text import cut

MESSAGE_LIMIT: Final = 300
"""Characters that are quoted of a message of the cluster."""

# A container that waits for these is on its way; for anything else, it is in trouble.
_ON_ITS_WAY: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


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
    if _number(status, "observedGeneration") < _number(deployment["metadata"], "generation"):
        # What the status says is about an older specification.
        return Rollout(name, 0, wanted, f"0 of {wanted} ready (not observed yet)")
    if updated < wanted:
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready ({updated} of {wanted} pods created)")
    if total > updated:
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready ({total - updated} old pods still to go)")
    if available < updated:
        return Rollout(name, ready, wanted, f"{ready} of {wanted} ready")
    return Rollout(name, wanted, wanted)


def rollouts(wanted: Sequence[str], deployments: Sequence[Manifest]) -> list[Rollout]:
    """How far the Deployments of these names are; one that does not exist waits to be created."""
    found = {each["metadata"]["name"]: each for each in deployments}
    return [rollout(found[name]) if name in found else Rollout(name, 0, 1, "is missing") for name in wanted]


def progress(states: Sequence[Rollout]) -> int:
    """Percent of the pods that are ready."""
    wanted = sum(state.wanted for state in states)
    return 100 * sum(state.ready for state in states) // wanted if wanted else 100


def cause(
    states: Sequence[Rollout], deployments: Sequence[Manifest], pods: Sequence[Manifest], events: Sequence[Manifest]
) -> str:
    """Why the rollouts are not complete: the object, the pod and what ails it, most telling first.

    `deployments`, `pods` and `events` (events.k8s.io/v1) are those of the tenant's namespace, in any order. Empty if
    all is complete.
    """
    found = {each["metadata"]["name"]: each for each in deployments}
    lines = []
    for state in states:
        if state.complete:
            continue
        line = f"Deployment {state.name}{' ' if state.waiting_for == 'is missing' else ': '}{state.waiting_for}"
        deployment = found.get(state.name)
        trouble = _trouble(deployment, pods, events) if deployment is not None else ""
        lines.append(f"{line}; {trouble}" if trouble else line)
    return _printable(". ".join(lines))


def _trouble(deployment: Manifest, pods: Sequence[Manifest], events: Sequence[Manifest]) -> str:
    selector = ((deployment.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    own = [pod for pod in pods if selector and selector.items() <= (pod["metadata"].get("labels") or {}).items()]
    name: str = deployment["metadata"]["name"]
    return (
        next(_pod_troubles(own), "")
        or _condition_message(deployment, "ReplicaFailure", "True")
        or _latest_warning(events, {pod["metadata"]["name"] for pod in own}, kind="Pod")
        or (_latest_warning(events, {name}, kind="ReplicaSet", prefix=True) if not own else "")
        or _not_ready(own)
        or _deadline(deployment)
    )


def _pod_troubles(pods: Sequence[Manifest]) -> Iterator[str]:
    """What pods say is wrong with them. Those that are being deleted belong to the past."""
    for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"])):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        status = pod.get("status") or {}
        name = pod["metadata"]["name"]
        containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
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


def _latest_warning(events: Sequence[Manifest], names: Collection[str], *, kind: str, prefix: bool = False) -> str:
    """The newest Warning about one of the objects; with `prefix` about those whose names are made from these."""

    def about(event: Manifest) -> str:
        subject = event.get("regarding") or {}
        name = str(subject.get("name") or "")
        known = any(name.rpartition("-")[0] == each for each in names) if prefix else name in names
        return name if subject.get("kind") == kind and known else ""

    warnings = [event for event in events if event.get("type") == "Warning" and about(event)]
    if not warnings:
        return ""
    newest = max(warnings, key=_moment)
    return f"{kind} {about(newest)}: {newest.get('reason') or 'Warning'}{_after_colon(newest.get('note'))}"


def _moment(event: Manifest) -> str:
    """When an event was last seen: RFC 3339 in UTC, which sorts as text."""
    seen = (event.get("series") or {}).get("lastObservedTime") or event.get("deprecatedLastTimestamp")
    return str(seen or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _not_ready(pods: Sequence[Manifest]) -> str:
    for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"])):
        ready = _condition(pod, "Ready", "False")
        if ready is not None and not pod["metadata"].get("deletionTimestamp"):
            said = ready.get("message") or ready.get("reason") or "not ready"
            return f"Pod {pod['metadata']['name']}: {_short(said)}"
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
