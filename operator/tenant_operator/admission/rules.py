"""What a person may ask of a Tenant, a Plan or an Organization, and as whom: the rules of admission. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, assert_never

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import (
    ANNOTATION_ACTION,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUESTED_BY,
    FINALIZER,
    GROUP,
    Action,
)
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Caller, key_of
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.organization_rules import Defect
from tenant_operator.provisioning.rules import Violation, check_request, refusal
from tenant_operator.saga.sight import seems_held
from tenant_operator.tenants.journal import decode
from tenant_operator.tenants.lifecycle import allowed_now, refuse_cancel, refuse_reset, refuse_retry
from tenant_operator.text import cut

FORBIDDEN: Final = 403
CONFLICT: Final = 409
INVALID: Final = 422
LISTED: Final = 10
"""How many users of a Plan or an Organization a refusal names."""

_CONTROLLERS: Final = "system:serviceaccounts:kube-system"
_CONTROLLER_MANAGER: Final = "system:kube-controller-manager"
_OF_THE_OFFER: Final = frozenset({"spec.organization", "spec.plan", "spec.region"})
_SHOWN: Final = 100


class Verb(StrEnum):
    """What a role may do with tenants beyond the ordinary verbs of the API server."""

    PROVISION = "provision"
    CANCEL = "cancel"
    RETRY = "retry"
    RESET = "reset"
    SUSPEND = "suspend"
    DECOMMISSION = "decommission"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The HTTP status and the words of a no."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What a write asks for. `old` is None for a creation; `action` is the one-shot request it makes, if it makes one.

    `begins`: provisioning starts now. `joins`: the tenant takes a new place under the tenant limit of its plan.
    """

    old: Tenant | None
    new: Tenant
    action: str | None
    begins: bool
    joins: bool
    verbs: tuple[Verb, ...]

    @property
    def is_anything(self) -> bool:
        """Whether there is anything to judge; labels and the like are nobody's business here."""
        if self.old is None or self.action is not None or self.old.spec != self.new.spec:
            return True
        return self.old.metadata.owner_references != self.new.metadata.owner_references


def ask_of(old: Tenant | None, new: Tenant) -> Ask:
    """What the write from `old` to `new` asks for."""
    action = new.metadata.annotations.get(ANNOTATION_ACTION)
    desired = new.spec.desired_state
    if old is None:
        verbs = {Verb.PROVISION} | ({_verb_for(desired, desired)} if desired is not DesiredState.ACTIVE else set())
        if new.metadata.owner_references:
            verbs.add(Verb.DECOMMISSION)
        return Ask(None, new, action, begins=True, joins=True, verbs=tuple(sorted(verbs)))
    if action == old.metadata.annotations.get(ANNOTATION_ACTION):
        action = None
    wanted: set[Verb] = set()
    recreates = False
    if desired is not old.spec.desired_state:
        wanted.add(_verb_for(old.spec.desired_state, desired))
        recreates = desired is DesiredState.ACTIVE and old.spec.desired_state is DesiredState.DECOMMISSIONED
    match action:
        case Action.CANCEL:
            wanted.add(Verb.CANCEL)
        case Action.RETRY:
            wanted |= {Verb.PROVISION, Verb.RETRY}
        case Action.RESET:
            wanted.add(Verb.RESET)
    if new.metadata.owner_references != old.metadata.owner_references:
        wanted.add(Verb.DECOMMISSION)  # an owner that goes, or never was, takes the tenant with it
    begins = recreates or action == Action.RETRY
    return Ask(old, new, action, begins=begins, joins=recreates, verbs=tuple(sorted(wanted)))


def _verb_for(before: DesiredState, after: DesiredState) -> Verb:
    """The verb that a role needs to change the lasting intent."""
    match after:
        case DesiredState.SUSPENDED:
            return Verb.SUSPEND
        case DesiredState.DECOMMISSIONED:
            return Verb.DECOMMISSION
        case DesiredState.ACTIVE:
            return Verb.SUSPEND if before is DesiredState.SUSPENDED else Verb.PROVISION
        case _:
            assert_never(after)


# What a person may ask for, given the tenant as it is.


def check_action(ask: Ask, now: datetime) -> Refusal | None:
    """Why the one-shot request is illegal now, or None."""
    if ask.action is None:
        return None
    if ask.old is None:
        why = "a tenant that does not exist yet takes no request: leave the annotation out"
    else:
        why = _illegal_action(ask.action, ask.old, ask.new, now) or ""
    return _invalid(f"metadata.annotations[{ANNOTATION_ACTION}]", ask.action, why) if why else None


def _illegal_action(action: str, old: Tenant, new: Tenant, now: datetime) -> str | None:
    """`old` carries the journal; `new` the intent that goes with the request."""
    state = old.status.state
    match action:
        case Action.CANCEL:
            return refuse_cancel(state)
        case Action.RETRY:
            return refuse_retry(new, decode(old.status), state)
        case Action.RESET:
            return refuse_reset(run := decode(old.status).run, state, held=seems_held(run, now))
        case _:
            return f"there is no such action; use {', '.join(Action)}"


def check_identity(ask: Ask) -> Refusal | None:
    """Whose the tenant is and where it serves never changes: names, roles and the claim on the host hang on it."""
    old, new = ask.old, ask.new
    if old is None:
        return None
    for field, before, after in (
        ("spec.organization", old.spec.organization, new.spec.organization),
        ("spec.slug", old.slug, new.slug),
    ):
        if before != after:
            return _invalid(field, after, f"is immutable: it is '{before}'; create a new Tenant")
    return None


def check_edit(ask: Ask) -> Refusal | None:
    """Why the tenant, as it is, cannot be changed so, or None. A tenant that is being deleted may be."""
    old, new = ask.old, ask.new
    if old is None or old.metadata.deletion_timestamp is not None:
        return None
    if (why := _illegal_intent(old, new)) is not None:
        return _invalid("spec.desiredState", new.spec.desired_state, why)
    if old.status.allocations and new.spec.region != old.spec.region:
        wayout = (
            f"the region '{old.spec.region or '(none)'}' cannot change while resources are held; set desiredState: "
            "Decommissioned, and once it is Decommissioned change it and set desiredState: Active"
        )
        return _invalid("spec.region", new.spec.region, wayout)
    return None


def _illegal_intent(old: Tenant, new: Tenant) -> str | None:
    """Active and Decommissioned are reachable from everywhere, sooner or later; Suspended needs traffic to pause."""
    state = old.status.state
    if new.spec.desired_state in (old.spec.desired_state, DesiredState.ACTIVE, DesiredState.DECOMMISSIONED):
        return None
    is_new = state is TenantState.PENDING and old.status.attempt == 0
    if is_new or state in (TenantState.PROVISIONING, TenantState.ACTIVE, TenantState.SUSPENDED):
        return None
    return f"only a tenant that serves or is on the way there can be suspended; it is {state}. {allowed_now(state)}"


def check_offer(
    ask: Ask,
    plan: Plan | None,
    organization: Organization | None,
    tenants: Iterable[KnownTenant],
    names: Names,
    defects: Iterable[Defect] = (),
) -> Refusal | None:
    """Why the organisation cannot have this tenant of this plan, or None. `tenants` and `defects` are those of the
    organisation.

    An edit answers for what it changes only; to begin is to answer for everything.
    """
    others = [each for each in tenants if key_of(each) != key_of(ask.new)]
    tenant = _last_in_line(ask.new) if ask.joins else ask.new
    violations: Sequence[Violation] = check_request(
        tenant, plan, organization, others, names, defects if ask.begins else ()
    )
    if not ask.begins:
        violations = [each for each in violations if each.field in _OF_THE_OFFER]
    return Refusal(INVALID, refusal(violations)) if violations else None


def concerns_offer(ask: Ask) -> bool:
    """Whether the plan and its offer have to be looked at."""
    if ask.begins or ask.old is None:
        return True
    return (ask.old.spec.plan, ask.old.spec.region) != (ask.new.spec.plan, ask.new.spec.region)


def _last_in_line(tenant: Tenant) -> Tenant:
    """It comes after all that are there, whatever the time of its record: seconds are too coarse to tell."""
    return tenant.model_copy(update={"metadata": tenant.metadata.model_copy(update={"creation_timestamp": None})})


def claims_host(other: KnownTenant) -> bool:
    """Whether a tenant holds its host or is about to. One that failed or was cancelled has given it back: what it may
    hold nevertheless is told by the namespace."""
    match other.status.state:
        case TenantState.PENDING:
            return other.status.attempt == 0 and other.spec.desired_state is not DesiredState.DECOMMISSIONED
        case TenantState.FAILED | TenantState.DECOMMISSIONED:
            return False
        case _:
            return True


def host_taken(tenant: Tenant, names: Names, holder: KnownTenant) -> Refusal:
    """The host is another tenant's, of the same organisation."""
    who = f"{holder.metadata.namespace}/{holder.metadata.name}"
    why = f"host {names.host} is taken by Tenant {who} of Organization {holder.spec.organization}"
    return Refusal(CONFLICT, f"spec.slug '{tenant.slug}': {why}; choose another slug")


# Who may ask.


def may_always(caller: Caller) -> bool:
    """The cluster's own controllers empty a namespace that somebody was allowed to delete."""
    return _CONTROLLERS in caller.groups or caller.name == _CONTROLLER_MANAGER


def needed(ask: Ask, caller: Caller) -> tuple[Verb, ...]:
    """The verbs that the caller's role must have for what is asked."""
    if not may_always(caller):
        return ask.verbs
    # The garbage collector takes an owner off that has gone; who may delete may do that, too.
    return tuple(verb for verb in ask.verbs if verb is not Verb.DECOMMISSION)


def not_allowed(caller: Caller, verbs: Iterable[str], namespace: str) -> Refusal:
    """The caller's role does not go so far."""
    needed = " and ".join(f"'{verb}'" for verb in verbs)
    return Refusal(
        FORBIDDEN,
        f"user '{caller.name}' lacks the verb {needed} on tenants.{GROUP} in namespace {namespace}; an owner can give "
        "a role that has it: see spec.members of the Organization",
    )


def not_a_member(caller: Caller, verbs: Iterable[str], tenant_namespace: str, organization: str) -> Refusal:
    """The caller's role where the Tenant is counts for nothing: its organisation lives elsewhere."""
    needed = " and ".join(f"'{verb}'" for verb in verbs)
    return Refusal(
        FORBIDDEN,
        f"user '{caller.name}' lacks the verb {needed} on tenants.{GROUP} where Organization {organization}, which the "
        f"Tenant names, has its Tenants; that is not namespace {tenant_namespace}: ask the platform team",
    )


# What nobody but the operator writes.


def stamps(old: Mapping[str, Any] | None, new: Mapping[str, Any], caller: str) -> dict[str, Any]:
    """The merge patch of the metadata that makes a write truthful about who asked, and safe to release.

    `old` and `new` are raw objects: what the API server has not validated yet may be of any shape.
    """
    before, after = (_annotations(old), _annotations(new)) if old is not None else ({}, _annotations(new))
    kept = {name: before.get(name) for name in (ANNOTATION_REQUESTED_BY, ANNOTATION_REQUEST)}
    if old is None or _asks(old, new):
        kept[ANNOTATION_REQUESTED_BY] = caller
    changed = {name: value for name, value in kept.items() if value != after.get(name)}
    patch: dict[str, Any] = {"annotations": changed} if changed else {}
    finalizers = _metadata(new).get("finalizers") or []
    if FINALIZER not in finalizers and not _metadata(new).get("deletionTimestamp"):
        patch["finalizers"] = [*finalizers, FINALIZER]
    return patch


def check_finalizer(old: Tenant, new: Tenant) -> Refusal | None:
    """A record that still holds something is not let go."""
    if lets_go(old, new) and old.status.allocations:
        return still_held(", ".join(sorted({row.kind for row in old.status.allocations})))
    return None


def lets_go(old: Tenant, new: Tenant) -> bool:
    """Whether the write takes off what keeps a record until everything is released."""
    return FINALIZER in old.metadata.finalizers and FINALIZER not in new.metadata.finalizers


def still_held(held: str) -> Refusal:
    """The record has to stay, because of what is `held`."""
    why = f"the operator removes it once everything is released; still held: {held}"
    return Refusal(INVALID, f"metadata.finalizers '{FINALIZER}': {why}")


def _asks(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    action = _annotations(new).get(ANNOTATION_ACTION)
    is_request = action is not None and action != _annotations(old).get(ANNOTATION_ACTION)
    return is_request or _wanted(old) != _wanted(new)


def _metadata(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(body.get("metadata"))


def _annotations(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_metadata(body).get("annotations"))


def _wanted(body: Mapping[str, Any]) -> object:
    spec = _mapping(body.get("spec"))
    return spec.get("desiredState", DesiredState.ACTIVE.value), spec.get("plan")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# What the platform team may remove.


def users_of_plan(name: str, tenants: Iterable[KnownTenant]) -> list[KnownTenant]:
    """The tenants for whose sake the Plan cannot be deleted: those that are of it and not decommissioned."""
    return [each for each in tenants if each.spec.plan == name and _counts(each)]


def plan_in_use(name: str, users: Sequence[KnownTenant], *, discreetly: bool) -> Refusal | None:
    """Why the Plan cannot be deleted; `discreetly`, its users are counted and not named."""
    return _in_use("Plan", name, users, "decommission them first", discreetly=discreetly)


def organization_in_use(name: str, users: Sequence[KnownTenant], *, discreetly: bool) -> Refusal | None:
    """Why the Organization cannot be deleted: its Tenants, decommissioned ones included."""
    return _in_use("Organization", name, users, "delete them first", discreetly=discreetly)


def organization_refused(defects: Sequence[Defect], *, discreetly: bool) -> Refusal:
    """What is wrong with an Organization that somebody is about to store."""
    code = CONFLICT if any(each.message != each.discreet for each in defects) else INVALID
    return Refusal(code, "; ".join(each.told(discreetly=discreetly) for each in defects))


def _counts(tenant: KnownTenant) -> bool:
    return tenant.status.state is not TenantState.DECOMMISSIONED


def _in_use(kind: str, name: str, users: Sequence[KnownTenant], wayout: str, *, discreetly: bool) -> Refusal | None:
    if not users:
        return None
    names = sorted(f"{each.metadata.namespace}/{each.metadata.name}" for each in users)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    count = "1 Tenant" if len(names) == 1 else f"{len(names)} Tenants"
    listed = "" if discreetly else f": {', '.join(names[:LISTED])}{more}"
    return Refusal(CONFLICT, f"{kind} '{name}' is used by {count}{listed}; {wayout}")


def _invalid(field: str, value: str | None, why: str) -> Refusal:
    return Refusal(INVALID, str(Violation(field, cut(value or "(none)", _SHOWN), why)))
