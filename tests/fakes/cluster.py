"""A Kubernetes API server in memory, for the verbs that tenants need."""

import re
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tenant_operator.adapters.kubernetes.resources import ref_of, resource
from tenant_operator.ports import Clock, Difference, Manifest, ObjectRef
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.fakes.hooks import Hook, nothing_happens
from tests.fakes.jsondata import copied

Rollout = Callable[[Manifest], tuple[dict[str, Any], list[Manifest]]]
"""What becomes of a workload: its status, and its pods (metadata without namespace, spec and status)."""

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
_NOT_COMPARED: Final = ("apiVersion", "kind", "metadata", "status")
_SERVER_SET: Final = ("uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp")

Key = tuple[str, str, str]
"""Kind, namespace ("" for cluster-scoped kinds), name."""


def healthy(workload: Manifest) -> tuple[dict[str, Any], list[Manifest]]:
    """Every pod runs at once."""
    pods = [
        _pod(workload, number, {"phase": "Running", "conditions": [_condition("Ready", "True")]}, ready=True)
        for number in range(_replicas(workload))
    ]
    return _workload_status(workload, pods=len(pods), ready=len(pods)), pods


def stuck(reason: str = "CrashLoopBackOff", message: str = "back-off 5m0s restarting failed container") -> Rollout:
    """No pod ever becomes ready: its container waits for `reason`, it has no node (`Unschedulable`), or there is no
    pod because a quota forbids it (`FailedCreate`)."""

    def rollout(workload: Manifest) -> tuple[dict[str, Any], list[Manifest]]:
        if reason == "FailedCreate":
            status = _workload_status(workload, pods=0, ready=0)
            status["conditions"].append(_condition("ReplicaFailure", "True", reason, message))
            return status, []
        if reason == "Unschedulable":
            scheduled = _condition("PodScheduled", "False", reason, message)
            status = {"phase": "Pending", "conditions": [scheduled]}
            pods = [_pod(workload, number, status) for number in range(_replicas(workload))]
        else:
            status = {
                "phase": "Running" if reason == "CrashLoopBackOff" else "Pending",
                "conditions": [_condition("Ready", "False", "ContainersNotReady")],
            }
            waiting = {"reason": reason, "message": message}
            pods = [_pod(workload, number, status, waiting=waiting) for number in range(_replicas(workload))]
        return _workload_status(workload, pods=len(pods), ready=0), pods

    return rollout


class FakeCluster:
    """`ports.Cluster` in memory.

    `rollout` plays the controllers and kubelets: it decides about a workload when it is applied, and about all of
    them on `roll_out()`. `before` and `after` are awaited around each effect with the operation ("create", "apply",
    "delete") and the object ("Secret namespace/name"): what they raise is what the caller gets. A Namespace says
    `terminating_looks` times that it is still going, its deletion included.
    """

    def __init__(self, clock: Clock, *, rollout: Rollout = healthy, terminating_looks: int = 1) -> None:
        self.rollout = rollout
        self.terminating_looks = terminating_looks
        self.before: Hook = nothing_happens
        self.after: Hook = nothing_happens
        self._clock = clock
        self._objects: dict[Key, Manifest] = {}
        self._looks_left: dict[str, int] = {}
        self._editors: dict[Key, str] = {}
        self._created: dict[Key, dict[str, set[str]]] = {}
        self._applied: dict[Key, dict[str, set[str]]] = {}
        self._version = 0

    def objects(self, kind: str | None = None, namespace: str | None = None) -> list[Manifest]:
        """Copies of the objects there are, of a kind and in a namespace if given."""
        return [
            copied(manifest)
            for (its_kind, its_namespace, _), manifest in self._objects.items()
            if kind in (None, its_kind) and namespace in (None, its_namespace)
        ]

    def roll_out(self) -> None:
        """Let `rollout` decide again about every workload."""
        for key in [key for key in self._objects if key[0] in _WORKLOADS]:
            self._roll_out(key)

    async def get(self, ref: ObjectRef) -> Manifest | None:
        key = _key(ref)
        self._look(key)
        manifest = self._objects.get(key)
        return None if manifest is None else copied(manifest)

    async def list(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        resource(api_version, kind)
        return [
            manifest
            for manifest in self.objects(kind, namespace)
            if labels.items() <= manifest["metadata"].get("labels", {}).items()
        ]

    async def create(self, manifest: Manifest) -> Manifest:
        ref = ref_of(manifest)
        key = _key(ref)
        self._look(key)
        await self.before("create", str(ref))
        if key not in self._objects:
            self._admit(ref, manifest)
            self._created[key], self._applied[key] = _marks(manifest), {}
            self._store(key, manifest)
        stored = copied(self._objects[key])
        await self.after("create", str(ref))
        return stored

    async def apply(self, manifest: Manifest) -> None:
        ref = ref_of(manifest)
        key = _key(ref)
        self._look(key)
        await self.before("apply", str(ref))
        self._admit(ref, manifest)
        self._disown(key, manifest)
        self._store(key, manifest)
        await self.after("apply", str(ref))

    async def compare(self, manifest: Manifest) -> Sequence[Difference]:
        key = _key(ref_of(manifest))
        self._look(key)
        stored = self._objects.get(key)
        if stored is None:
            return [Difference("")]
        editor = self._editors.get(key, "")
        return [Difference(path, editor) for path in _differing(_comparable(manifest), _comparable(stored, manifest))]

    async def correct(self, manifest: Manifest) -> None:
        key = _key(ref_of(manifest))
        if (stored := self._objects.get(key)) is not None:
            # The apply leaves alone what it does not name: the rest of what others have set has to go before.
            kept: Manifest = {name: stored[name] for name in _NOT_COMPARED if name in stored}
            if "replicas" in stored.get("spec", {}):
                kept["spec"] = {"replicas": stored["spec"]["replicas"]}
            self._objects[key] = kept
        await self.apply(manifest)

    def edit(self, ref: ObjectRef, patch: Manifest, manager: str = "kubectl-edit") -> None:
        """Somebody else changes the object, by a JSON merge patch (RFC 7386)."""
        key = _key(ref)
        changed = _merged(copied(self._objects[key]), patch)
        if changed.get("spec") != self._objects[key].get("spec"):
            changed["metadata"]["generation"] += 1
        self._editors[key] = manager
        self._put(key, changed)

    def vanish(self, ref: ObjectRef) -> None:
        """Somebody else deletes the object, and it is gone at once, with all that is in it."""
        self._remove(_key(ref))
        self._objects.pop(_key(ref), None)
        self._looks_left.pop(ref.name, None)

    async def delete(self, ref: ObjectRef) -> bool:
        key = _key(ref)
        self._look(key)
        await self.before("delete", str(ref))
        if key in self._objects:
            self._remove(key)
        gone = key not in self._objects
        await self.after("delete", str(ref))
        return gone

    def _look(self, key: Key) -> None:
        """Time passes for a Namespace on its way out when it is looked at."""
        kind, _, name = key
        if kind != "Namespace" or name not in self._looks_left:
            return
        self._looks_left[name] -= 1
        if self._looks_left[name] < 0:
            del self._looks_left[name]
            del self._objects[key]

    def _admit(self, ref: ObjectRef, manifest: Manifest) -> None:
        _validate(ref, manifest)
        if ref.namespace is None:
            return
        holder = self._objects.get(("Namespace", "", ref.namespace))
        if holder is None:
            raise Rejected(f'{ref}: namespaces "{ref.namespace}" not found')
        if _key(ref) in self._objects:
            return
        if "deletionTimestamp" in holder["metadata"]:
            raise Unavailable(
                f"{ref}: forbidden: unable to create new content in namespace {ref.namespace} because it is being "
                "terminated"
            )
        self._charge(ref)

    def _charge(self, ref: ObjectRef) -> None:
        """Refuse what a quota on numbers of objects does not allow."""
        plural, namespace = resource(ref.api_version, ref.kind).plural, ref.namespace or ""
        group = ref.api_version.rpartition("/")[0]
        used = sum(key[:2] == (ref.kind, namespace) for key in self._objects)
        for key, quota in self._objects.items():
            if key[:2] != ("ResourceQuota", namespace):
                continue
            for name in (plural, f"count/{plural}{'.' + group if group else ''}"):
                limit = quota.get("spec", {}).get("hard", {}).get(name)
                if limit is not None and used >= int(limit):
                    raise Rejected(
                        f'{ref}: {plural} "{ref.name}" is forbidden: exceeded quota: {quota["metadata"]["name"]}, '
                        f"requested: {name}=1, used: {name}={used}, limited: {name}={limit}"
                    )

    def _disown(self, key: Key, manifest: Manifest) -> None:
        """What the apply before has set and this one does not goes: labels and annotations that were created stay."""
        sets, created = _marks(manifest), self._created.get(key, {})
        if (old := self._objects.get(key)) is not None:
            changed = copied(old)
            for name, before in self._applied.get(key, {}).items():
                for each in before - sets[name] - created.get(name, set()):
                    changed["metadata"].get(name, {}).pop(each, None)
            if changed != old:
                self._put(key, changed)
        self._applied[key] = sets

    def _store(self, key: Key, manifest: Manifest) -> None:
        """Merge as server-side apply does, as far as one owner of all fields can tell."""
        old = self._objects.get(key)
        new = copied(manifest)
        new["metadata"].pop("resourceVersion", None)
        if key[0] == "Secret" and "stringData" in new:
            new.setdefault("data", {}).update(_encoded(new.pop("stringData")))
        if old is None:
            stamps = {"uid": f"uid-{self._version + 1}", "creationTimestamp": _timestamp(self._clock.now())}
            new["metadata"].update(stamps, generation=1)
        else:
            metadata = old["metadata"]
            new["metadata"].update({name: metadata[name] for name in _SERVER_SET if name in metadata})
            for name in ("labels", "annotations"):
                if name in metadata:
                    new["metadata"][name] = {**metadata[name], **new["metadata"].get(name, {})}
            if "status" in old:
                new["status"] = old["status"]
            if "replicas" in old.get("spec", {}):
                new["spec"] = {"replicas": old["spec"]["replicas"], **new["spec"]}
            if new == old:
                return
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
        if key[0] == "Namespace":
            new.setdefault("status", {"phase": "Active"})
        if key[0] == "ResourceQuota":
            new["status"] = {"hard": new.get("spec", {}).get("hard", {})}
        self._put(key, new)
        if key[0] in _WORKLOADS:
            self._roll_out(key)

    def _put(self, key: Key, manifest: Manifest) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)
        self._objects[key] = manifest

    def _remove(self, key: Key) -> None:
        kind, _, name = key
        if kind == "Namespace":
            for inside in [other for other in self._objects if other[1] == name]:
                del self._objects[inside]
            self._terminate(name)
            return
        del self._objects[key]
        if kind in _WORKLOADS:
            self._remove_pods(key)

    def _terminate(self, namespace: str) -> None:
        key = ("Namespace", "", namespace)
        if self.terminating_looks == 0:
            del self._objects[key]
        elif namespace not in self._looks_left:
            # The look that comes with this deletion is over; the remaining ones are still to come.
            self._looks_left[namespace] = self.terminating_looks - 1
            leaving = copied(self._objects[key])
            leaving["metadata"]["deletionTimestamp"] = _timestamp(self._clock.now())
            leaving["status"] = {"phase": "Terminating"}
            self._put(key, leaving)

    def _roll_out(self, key: Key) -> None:
        kind, namespace, _ = key
        workload = copied(self._objects[key])
        status, pods = self.rollout(workload)
        self._remove_pods(key)
        for pod in pods:
            pod["metadata"] |= {"namespace": namespace, "uid": f"uid-{self._version + 1}"}
            pod["metadata"]["creationTimestamp"] = _timestamp(self._clock.now())
            self._put(("Pod", namespace, pod["metadata"]["name"]), pod)
        if workload.get("status") != status:
            workload["status"] = status
            self._put((kind, namespace, key[2]), workload)

    def _remove_pods(self, workload: Key) -> None:
        kind, namespace, name = workload
        owner = _owner_of_pods(kind, name)
        for key in [key for key in self._objects if key[:2] == ("Pod", namespace)]:
            if any(owner.items() <= each.items() for each in _owners(self._objects[key])):
                del self._objects[key]


def _marks(manifest: Manifest) -> dict[str, set[str]]:
    """The names of labels and annotations that a manifest sets."""
    return {name: set(manifest["metadata"].get(name) or ()) for name in ("labels", "annotations")}


def _comparable(manifest: Manifest, wanted: Manifest | None = None) -> dict[str, Any]:
    """What others may not change: all but the status, notes in the metadata, and replicas that are `wanted` by none."""
    wanted = manifest if wanted is None else wanted
    content = {name: value for name, value in manifest.items() if name not in _NOT_COMPARED}
    if "replicas" not in (wanted.get("spec") or {}) and "spec" in content:
        content["spec"] = {name: value for name, value in content["spec"].items() if name != "replicas"}
    names = _marks(wanted)
    marks = {
        name: {each: value for each, value in (manifest["metadata"].get(name) or {}).items() if each in names[name]}
        for name in names
    }
    return {"metadata": marks, **content}


def _differing(wanted: object, stored: object, path: str = "") -> Iterator[str]:
    """The paths at which two values differ."""
    if isinstance(wanted, list) and isinstance(stored, list) and all(_is_named(each) for each in [*wanted, *stored]):
        wanted, stored = _by_name(wanted), _by_name(stored)
    if not (isinstance(wanted, dict) and isinstance(stored, dict)):
        if wanted != stored:
            yield path
        return
    for name in sorted(wanted.keys() | stored.keys()):
        step = name if name.startswith("[") or not path else f".{name}"
        if name in wanted and name in stored:
            yield from _differing(wanted[name], stored[name], path + step)
        else:
            yield path + step


def _is_named(item: object) -> bool:
    return isinstance(item, dict) and "name" in item


def _by_name(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"[name={each['name']}]": each for each in items}


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), change)
    return merged


def _key(ref: ObjectRef) -> Key:
    namespaced = resource(ref.api_version, ref.kind).namespaced
    if namespaced and not ref.namespace:
        raise Rejected(f"{ref.kind}: metadata.namespace is missing")
    return (ref.kind, (ref.namespace or "") if namespaced else "", ref.name)


def _validate(ref: ObjectRef, manifest: Manifest) -> None:
    """The mistakes that the API server finds and that are cheap to find here."""
    if not _NAME.fullmatch(ref.name):
        raise Rejected(f'{ref}: {ref.kind} "{ref.name}" is invalid: metadata.name: Invalid value: "{ref.name}"')
    for field, value in _fields(manifest):
        if field.endswith(("port", "containerPort")) and isinstance(value, int) and not 0 < value < 65536:
            raise Rejected(
                f'{ref}: {ref.kind} "{ref.name}" is invalid: {field}: Invalid value: {value}: must be between 1 and '
                "65535, inclusive"
            )
        if ref.kind == "ConfigMap" and field.startswith("data.") and not isinstance(value, str):
            raise Rejected(f"{ref}: failed to create typed patch object: .{field}: expected string")


def _fields(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every single value with the path to it."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _fields(each, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _fields(each, f"{path}[{index}]")
    else:
        yield path, value


def _replicas(workload: Manifest) -> int:
    replicas: int = workload.get("spec", {}).get("replicas", 1)
    return replicas


def _owners(manifest: Manifest) -> Collection[dict[str, Any]]:
    owners: list[dict[str, Any]] = manifest["metadata"].get("ownerReferences", [])
    return owners


def _owner_of_pods(kind: str, name: str) -> dict[str, str]:
    """A Deployment's pods belong to a ReplicaSet of it."""
    return {"kind": "ReplicaSet", "name": f"{name}-5c6b7d8f9"} if kind == "Deployment" else {"kind": kind, "name": name}


def _workload_status(workload: Manifest, *, pods: int, ready: int) -> dict[str, Any]:
    wanted = _replicas(workload)
    available = ready >= wanted
    status: dict[str, Any] = {
        "observedGeneration": workload["metadata"]["generation"],
        "conditions": [
            _condition("Available", "True", "MinimumReplicasAvailable")
            if available
            else _condition("Available", "False", "MinimumReplicasUnavailable"),
            _condition("Progressing", "True", "NewReplicaSetAvailable" if available else "ReplicaSetUpdated"),
        ],
    }
    if workload["kind"] == "DaemonSet":
        return status | {
            "desiredNumberScheduled": wanted,
            "updatedNumberScheduled": wanted,
            "numberAvailable": ready,
            "numberReady": ready,
        }
    counts = {
        "replicas": pods,
        "updatedReplicas": pods,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": wanted - ready,
    }
    # As in the API, a count of nothing is not there.
    return status | {name: count for name, count in counts.items() if count}


def _pod(
    workload: Manifest,
    number: int,
    status: dict[str, Any],
    *,
    ready: bool = False,
    waiting: dict[str, str] | None = None,
) -> Manifest:
    """A pod as a controller would make it from the workload's template."""
    template = copied(workload["spec"].get("template", {}))
    owner = _owner_of_pods(workload["kind"], workload["metadata"]["name"])
    containers = template.get("spec", {}).get("containers", [])
    state = {"waiting": waiting} if waiting else {"running": {}}
    container_statuses = [
        {"name": container["name"], "ready": ready, "restartCount": 3 if waiting else 0, "state": state}
        for container in containers
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template.get("metadata", {}),
            "name": f"{owner['name']}-{number}",
            "ownerReferences": [{"apiVersion": workload["apiVersion"], **owner, "controller": True}],
        },
        "spec": template.get("spec", {}),
        "status": {**copied(status), "containerStatuses": copied(container_statuses) if ready or waiting else []},
    }


def _condition(type_: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def _encoded(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: b64encode(text.encode()).decode() for name, text in texts.items()}


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
