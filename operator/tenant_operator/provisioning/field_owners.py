"""Who has set what of an object: read from `metadata.managedFields`, where server-side apply keeps it. Pure.

The API server moves a field from one owner to another when somebody changes it. So whoever still owns a field knows its
value: it is the one that they applied last. Of fields that others own beside, an apply leaves everything as it is.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from tenant_operator.api.names import FIELD_MANAGER
from tenant_operator.ports import Difference, Manifest

Fields = dict[str, Any]
"""A set of fields as FieldsV1 has it: `f:name` a field, `k:{…}` an item of a list by its key, `.` the thing itself."""

ManagedFields = Sequence[Mapping[str, Any]]
"""`metadata.managedFields`: an entry for each manager and way of writing."""

_SELF: Final = "."
_METADATA: Final = "f:metadata"
_NOT_SET: Final = frozenset({_METADATA, "f:status", "f:apiVersion", "f:kind"})
"""What others may write to any object: controllers keep notes in its metadata, and tell its state in the status."""
_RESTART: Final = ("f:spec", "f:template", "f:metadata", "f:annotations", "f:kubectl.kubernetes.io/restartedAt")
"""`kubectl rollout restart`: taken away, it would restart the pods once more."""
_REPLICAS: Final = ("f:spec", "f:replicas")


def differences(manifest: Manifest, managed: ManagedFields) -> list[Difference]:
    """In what a stored object is not what the manifest makes of it, if the manifest is what was applied last: fields
    that others have set, and fields that they have changed or removed. Left to others is what `taken_over` leaves."""
    found: dict[str, str] = {}
    for entry in managed:
        if theirs := _theirs(entry, manifest):
            found.update(dict.fromkeys(_leaves(theirs, ""), str(entry.get("manager"))))
    own = reduce(_union, own_fields(managed), Fields())
    for path, fields in _lost(_applied(manifest), own, "", ()):
        found.setdefault(path, _owner(fields, managed))
    return [Difference(field, manager) for field, manager in sorted(found.items())]


def taken_over(manifest: Manifest, managed: ManagedFields) -> list[dict[str, Any]] | None:
    """The managed fields with all that others have set as our own: what the next apply of the manifest does not name
    of it, the API server takes away. None if they have set nothing.

    Others keep the metadata, the status, the time of `kubectl rollout restart`, and the replicas where the manifest
    names none.
    """
    own: dict[str, Any] = {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": manifest["apiVersion"],
        "fieldsType": "FieldsV1",
    }
    left, taken = [], Fields()
    for entry in managed:
        theirs = _theirs(entry, manifest)
        taken = _union(taken, theirs)
        if _is_own(entry) and entry.get("operation") == "Apply":
            own = dict(entry)
        elif rest := _without(entry.get("fieldsV1") or {}, theirs):
            left.append({**entry, "fieldsV1": rest})
    if not taken:
        return None
    return [{**own, "fieldsV1": _union(own.get("fieldsV1") or {}, taken)}, *left]


def is_touched(managed: ManagedFields) -> bool:
    """Whether others have set anything but metadata and status, or a label that is ours. What a manifest leaves to
    others counts, too: which that is, is not known here."""
    for entry in managed:
        if _is_own(entry) or entry.get("subresource") == "status":
            continue
        fields: Fields = entry.get("fieldsV1") or {}
        labels: Fields = (fields.get(_METADATA) or {}).get("f:labels") or {}
        if not _NOT_SET.issuperset(fields) or any(_is_own_label(label) for label in labels):
            return True
    return False


def own_fields(managed: ManagedFields) -> list[Fields]:
    """What is owned by us, by each way of writing."""
    return [entry.get("fieldsV1") or {} for entry in managed if _is_own(entry)]


def last_write(managed: ManagedFields, *, own: bool) -> str:
    """When we, or others, wrote to the object last, its status aside; empty if never. A write through a subresource
    may tell no time."""
    return max(
        (
            str(entry.get("time") or "?")
            for entry in managed
            if _is_own(entry) is own and entry.get("subresource") != "status"
        ),
        default="",
    )


def _is_own(entry: Mapping[str, Any]) -> bool:
    return entry.get("manager") == FIELD_MANAGER and not entry.get("subresource")


def _is_own_label(key: str) -> bool:
    name = key.removeprefix("f:")
    return name.startswith(("intelliauth.io/", "app.kubernetes.io/", "pod-security.kubernetes.io/"))


def _theirs(entry: Mapping[str, Any], manifest: Manifest) -> Fields:
    """What others have set by an entry, and are not left with."""
    if _is_own(entry) or entry.get("subresource") == "status":
        return {}
    fields = {name: inner for name, inner in (entry.get("fieldsV1") or {}).items() if name not in _NOT_SET}
    fields = _pruned(fields, _RESTART)
    return fields if "replicas" in (manifest.get("spec") or {}) else _pruned(fields, _REPLICAS)


def _pruned(fields: Fields, path: Sequence[str]) -> Fields:
    """Without what lies at the path, and what is empty then."""
    name, *further = path
    if name not in fields:
        return fields
    inner = _pruned(fields[name], further) if further else {}
    rest = {each: value for each, value in fields.items() if each != name}
    if set(inner) - {_SELF}:
        return {**rest, name: inner}
    return rest if set(rest) - {_SELF} else {}


def _without(fields: Fields, taken: Fields) -> Fields:
    left = {}
    for name, inner in fields.items():
        if name not in taken:
            left[name] = inner
        elif taken[name] and (rest := _without(inner, taken[name])):
            left[name] = rest
    return left if set(left) - {_SELF} or (_SELF in left and _SELF not in taken) else {}


def _union(one: Fields, other: Fields) -> Fields:
    both = dict(one)
    for name, inner in other.items():
        both[name] = _union(both[name], inner) if name in both else inner
    return both


def _leaves(fields: Fields, path: str) -> Iterator[str]:
    """The fields of a set, each by its path; an item of a list that is owned as a whole is one."""
    inner = {name: value for name, value in fields.items() if name != _SELF}
    if not inner or (_SELF in fields and path.endswith("]")):
        yield path
        return
    for name, value in inner.items():
        yield from _leaves(value, path + _step(name, path))


def _step(name: str, path: str) -> str:
    """`f:name` as `.name`, `k:{"name":"auth"}` as `[name=auth]`, `v:"x"` as `[x]`."""
    kind, _, text = name.partition(":")
    if kind == "f":
        return f".{text}" if path else text
    value = json.loads(text) if kind in ("k", "v") else text
    if isinstance(value, dict):
        return f"[{','.join(f'{key}={each}' for key, each in value.items())}]"
    return f"[{value}]"


def _applied(manifest: Manifest) -> Manifest:
    """What of a manifest the managed fields tell of."""
    metadata = {name: manifest["metadata"].get(name) or {} for name in ("labels", "annotations")}
    others = {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind", "metadata")}
    return {"metadata": metadata, **others}


def _lost(value: object, own: Fields, path: str, place: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is named in a manifest and not owned, by its path and its place among fields. What is empty is left out:
    nothing may be there to be owned."""
    if isinstance(value, dict):
        items = [(f"f:{name}", inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(name.startswith("k:") for name in own):
        items = [(_key_of(item, own), item) for item in value]
    else:
        return
    for name, inner in items:
        if inner in ({}, [], "", None):
            continue
        here = path + _step(name, path)
        if name not in own:
            yield here, (*place, name)
        elif own[name]:
            yield from _lost(inner, own[name], here, (*place, name))


def _key_of(item: Mapping[str, Any], own: Fields) -> str:
    """The name among fields of an item of a list; a new one after the form of the others if it is not there."""
    keys = [json.loads(name.partition(":")[2]) for name in own if name.startswith("k:")]
    for name, key in zip((name for name in own if name.startswith("k:")), keys, strict=True):
        if all(item.get(each, value) == value for each, value in key.items()):  # what is absent is a default
            return name
    form = {each: item.get(each) for each in keys[0]}
    return f"k:{json.dumps(form, separators=(',', ':'))}"


def _owner(place: Sequence[str], managed: ManagedFields) -> str:
    """Who has what lies at a place among fields; empty if nobody has."""
    for entry in managed:
        fields: Any = entry.get("fieldsV1") or {}
        for name in place:
            fields = fields.get(name) if isinstance(fields, dict) else None
        if fields is not None and not _is_own(entry):
            return str(entry.get("manager"))
    return ""
