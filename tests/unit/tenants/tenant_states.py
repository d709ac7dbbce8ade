"""Every state that a Tenant can be in, as the API server has it: for those who judge a Tenant by what it says."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from tenant_operator.api.names import FINALIZER, Action, ActivityName
from tenant_operator.api.states import DesiredState
from tenant_operator.api.tenant import Tenant
from tenant_operator.saga.decide import fold
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.saga.facts import ActivityCompleted, ActivityFailed, Fact, Pulsed, RunStarted
from tenant_operator.saga.model import RowState, Saga
from tenant_operator.saga.step import RetryPolicy
from tenant_operator.tenants.lifecycle import demand, take_request
from tenant_operator.tenants.standing import Degradation, Standing, Trouble, standing_of
from tenant_operator.tenants.status import project
from tests.unit.saga.interpreter import START, Interpreter, all_steps, seeded
from tests.unit.tenants.a_tenant import NAMES, new_id, tenant

Object = dict[str, Any]

NOW = START + timedelta(minutes=5)
"""When somebody looks at the tenants: after the workers of all but `provisioning-alive` have fallen silent."""

STEPS = {
    **all_steps(timeout=timedelta(minutes=10)),
    # A compensation that fails here has used up its budget at once.
    ActivityName.ALLOCATE_STORAGE: replace(
        all_steps(timeout=timedelta(minutes=10))[ActivityName.ALLOCATE_STORAGE], retry=RetryPolicy(max_tries=1)
    ),
}


@cache
def _states() -> dict[str, Object]:
    return {name: _manifest(life().record) for name, life in _lives()}


def tenant_states() -> dict[str, Object]:
    """Every state, by a name for it: a Tenant's manifest, come there by the real rules and the real projection.

    The names begin with the state and go on with what is special: the activity, why it is so, what is asked for and not
    granted yet. The status speaks of the spec as it is, except in `created` and where the name says `unseen`.
    """
    return {
        "created": _unobserved(),
        "created-without-status": {key: value for key, value in _unobserved().items() if key != "status"},
        **{name: _copy(manifest) for name, manifest in _states().items()},
        # What was asked for a moment ago: the operator has not looked at it yet.
        "active-unseen-suspend": _unseen("active", desired="Suspended"),
        "active-unseen-decommission": _unseen("active", desired="Decommissioned"),
        "active-unseen-deletion": _unseen("active", deleted=True),
        "suspended-unseen-resume": _unseen("suspended", desired="Active"),
        "failed-unseen-decommission": _unseen("failed", desired="Decommissioned"),
        "failed-unseen-deletion": _unseen("failed", deleted=True),
        "decommissioned-unseen-recreate": _unseen("decommissioned", desired="Active"),
        "decommissioned-unseen-deletion": _unseen("decommissioned", deleted=True),
        "provisioning-cancel-asked": _asked("provisioning-deploy-workloads", Action.CANCEL),
        "failed-retry-asked": _asked("failed", Action.RETRY),
        "cancelled-retry-asked": _asked("pending-cancelled", Action.RETRY),
    }


class _Life:
    """A Tenant and its saga, driven by what is asked of it and by what happens to it."""

    def __init__(self, desired: DesiredState = DesiredState.ACTIVE) -> None:
        self.record: Tenant = tenant(desired=desired)
        self._desired = desired
        self._deleting = False
        self._interpreter = Interpreter(STEPS, seeded(), eventful=0)
        self._interpreter.journalled = self._journal

    def _journal(self, _before: Saga, facts: list[Fact], _now: object) -> None:
        standing = standing_of(self.record.status)
        for fact in facts:
            match fact:
                case ActivityCompleted(activity=ActivityName.MARK_ACTIVE):
                    standing = replace(standing, suspended=self._desired is DesiredState.SUSPENDED)
                case RunStarted():
                    standing = Standing()
                case _:
                    pass
        self._tell(standing)

    def _tell(self, standing: Standing) -> None:
        life = self._interpreter
        status = project(self.record, NAMES, life.saga, life.steps, [], life.now, standing=standing)
        self.record = self.record.model_copy(update={"status": status})

    def looked_at(self) -> "_Life":
        """The operator grants what the record asks for."""
        life = self._interpreter
        facts = demand(self.record, life.saga, new_id, held=True)
        if facts:
            life.happen(*facts)
        else:
            self._tell(standing_of(self.record.status))
        return self

    def wanting(self, desired: DesiredState) -> "_Life":
        """The lasting intent is another, and the operator has seen it."""
        self._desired = desired
        spec = self.record.spec.model_copy(update={"desired_state": desired})
        self.record = self.record.model_copy(update={"spec": spec})
        return self.looked_at()

    def deleted(self) -> "_Life":
        """Somebody deletes it, and the operator has seen it."""
        metadata = self.record.metadata.model_copy(update={"deletion_timestamp": self._interpreter.now})
        self.record = self.record.model_copy(update={"metadata": metadata})
        return self.looked_at()

    def asking(self, action: Action) -> "_Life":
        """A one-shot request is made, and the operator has judged it."""
        asked = tenant(self.record.status, desired=self._desired, action=action)
        taken = take_request(asked, new_id(), self._interpreter.now)
        assert taken is not None
        self.record = taken
        self.looked_at()
        # What a person reads is the outcome; the annotation under which the operator took it is not of interest.
        self.record = tenant(self.record.status, desired=self._desired)
        return self

    def traffic(self, *, suspended: bool) -> "_Life":
        """The route was closed, or opened."""
        self._tell(replace(standing_of(self.record.status), suspended=suspended))
        return self

    def rolling_out(self) -> "_Life":
        """The plan has changed, and the workloads follow it."""
        self._tell(replace(standing_of(self.record.status), rolling_out="rolling out plan starter"))
        return self

    def degraded(self, *, is_down: bool) -> "_Life":
        """Pods of the workloads are gone."""
        cause = "nobody answers: Deployment auth: 0 of 2 ready" if is_down else "Deployment auth: 1 of 2 ready"
        self._tell(replace(standing_of(self.record.status), degraded=Degradation(cause, is_down)))
        return self

    def switching(self) -> "_Life":
        """The route is being closed or opened."""
        self._tell(replace(standing_of(self.record.status), switching=True))
        return self

    def troubled(self, *, can_heal: bool) -> "_Life":
        """Something that a serving tenant needs failed."""
        trouble = Trouble("the API server said no; it goes on being tried", can_heal)
        self._tell(replace(standing_of(self.record.status), trouble=trouble))
        return self

    def until(self, activity: ActivityName, state: RowState = RowState.RUNNING) -> "_Life":
        """Up to where the activity runs, or is rolled back."""
        while self._interpreter.saga.row(activity).state is not state:
            assert self._interpreter.turn(), f"{activity} never came to {state}"
        return self

    def fails(self, activity: ActivityName, error: Exception) -> "_Life":
        """A try of the activity, or of undoing it, fails."""
        life = self._interpreter
        life.happen(life.failure(activity, error))
        return self

    def skips(self, activity: ActivityName) -> "_Life":
        """The activity fails for good, and the run goes on without it."""
        self._interpreter.happen(ActivityFailed(activity, "the mail server does not answer", best_effort=True))
        return self

    def pulses(self, activity: ActivityName, detail: str) -> "_Life":
        """The activity tells what it waits for."""
        self._interpreter.happen(Pulsed(activity, detail))
        return self

    def times_out(self) -> "_Life":
        """The running activity takes too long."""
        self._interpreter.sleep(660)
        self._interpreter.happen()
        return self

    def heartbeat_now(self) -> "_Life":
        """The worker gives a sign of life at `NOW`."""
        self._interpreter.now = NOW
        activity = next(row.activity for row in self._interpreter.saga.timeline if row.state is RowState.RUNNING)
        return self.pulses(ActivityName(activity), "still at it")

    def abandoned(self) -> "_Life":
        """The worker has fallen silent, and another one resets what it left."""
        life = self._interpreter
        life.now += timedelta(minutes=5)
        life.worker = replace(life.worker, id="worker-2", fence=2, started_at=life.now)
        asked = take_request(tenant(self.record.status, action=Action.RESET), new_id(), life.now)
        assert asked is not None
        facts = demand(asked, life.saga, new_id, held=False)
        life.saga = fold(life.saga, facts, life.steps, life.now, life.worker)
        self._tell(Standing())
        return self

    def rests(self) -> "_Life":
        """Until nothing is left to do."""
        self._interpreter.run()
        return self


_A = ActivityName
_DOWN = Unavailable("the database does not answer")
_IN_USE = Rejected("database tenant_banking is in use")


def _begun(desired: DesiredState = DesiredState.ACTIVE) -> _Life:
    return _Life(desired).looked_at()


def _active() -> _Life:
    return _begun().rests()


def _suspended() -> _Life:
    return _active().wanting(DesiredState.SUSPENDED).traffic(suspended=True)


def _failing() -> _Life:
    return _begun().until(_A.APPLY_SCHEMA).fails(_A.APPLY_SCHEMA, Rejected("migration 0002_users.sql: syntax error"))


def _cancelling() -> _Life:
    return _begun().until(_A.DEPLOY_WORKLOADS).asking(Action.CANCEL)


def _failed() -> _Life:
    return _failing().rests()


def _cancelled() -> _Life:
    return _cancelling().rests()


def _releasing() -> _Life:
    return _active().wanting(DesiredState.DECOMMISSIONED)


def _released() -> _Life:
    return _releasing().rests()


def _stuck(life: _Life) -> _Life:
    return life.until(_A.ALLOCATE_STORAGE, RowState.COMPENSATING).fails(_A.ALLOCATE_STORAGE, _IN_USE)


def _structural() -> _Life:
    life = _failed()
    for _ in range(2):
        life.asking(Action.RETRY).until(_A.APPLY_SCHEMA).fails(_A.APPLY_SCHEMA, Rejected("syntax error")).rests()
    return life


def _lives() -> Iterator[tuple[str, Callable[[], _Life]]]:  # noqa: PLR0915 (a list)
    active, suspended, decommissioned = DesiredState.ACTIVE, DesiredState.SUSPENDED, DesiredState.DECOMMISSIONED

    yield "pending", lambda: _Life().asking(Action.CANCEL)  # judged before anything else
    yield "pending-cancelled", _cancelled
    yield "pending-cancelled-refused-cancel", lambda: _cancelled().asking(Action.CANCEL)
    yield "pending-cancelled-wanted-suspended", lambda: _cancelled().wanting(suspended)

    for activity in ActivityName:
        if activity is not _A.SEND_WELCOME_EMAILS:
            yield f"provisioning-{activity}", lambda activity=activity: _begun().until(activity)  # type: ignore[misc]
    yield "provisioning-alive", lambda: _begun().until(_A.WAIT_READY).heartbeat_now()
    yield (
        "provisioning-retrying",
        lambda: _begun().until(_A.ALLOCATE_NAMESPACE).fails(_A.ALLOCATE_NAMESPACE, _DOWN),
    )
    yield (
        "provisioning-waiting",
        lambda: _begun().until(_A.WAIT_READY).pulses(_A.WAIT_READY, "pod auth-0: CrashLoopBackOff"),
    )
    yield "provisioning-refused-reset", lambda: _begun().until(_A.WAIT_READY).asking(Action.RESET)
    yield "provisioning-wanted-suspended", lambda: _begun(suspended).until(_A.WAIT_READY)
    yield "provisioning-second-attempt", lambda: _failed().asking(Action.RETRY).until(_A.WAIT_READY)
    yield "provisioning-again", lambda: _released().wanting(active).until(_A.WAIT_READY)
    yield "provisioning-rolling-back-failed", _failing
    yield "provisioning-rolling-back-cancelled", _cancelling
    yield "provisioning-rolling-back-decommissioned", lambda: _begun().until(_A.WAIT_READY).wanting(decommissioned)
    yield "provisioning-rolling-back-deleted", lambda: _begun().until(_A.WAIT_READY).deleted()
    yield "provisioning-rollback-stuck-failed", lambda: _stuck(_failing())
    yield "provisioning-rollback-stuck-cancelled", lambda: _stuck(_cancelling())
    yield "provisioning-rollback-stuck-deleted", lambda: _stuck(_begun().until(_A.WAIT_READY).deleted())

    yield "active", _active
    yield "active-sending-emails", lambda: _begun().until(_A.SEND_WELCOME_EMAILS)
    yield (
        "active-emails-failed",
        lambda: _begun().until(_A.SEND_WELCOME_EMAILS).skips(_A.SEND_WELCOME_EMAILS).rests(),
    )
    yield "active-rolling-out", lambda: _active().rolling_out()
    yield "active-degraded", lambda: _active().degraded(is_down=True)
    yield "active-degraded-serving", lambda: _active().degraded(is_down=False)
    yield "active-degraded-rolling-out", lambda: _active().degraded(is_down=True).rolling_out()
    yield "active-degraded-suspending", lambda: _active().degraded(is_down=True).wanting(suspended)
    yield "active-refused-retry", lambda: _active().asking(Action.RETRY)
    yield "active-upkeep-retrying", lambda: _active().troubled(can_heal=True)
    yield "active-upkeep-failed", lambda: _active().troubled(can_heal=False)
    yield "active-suspending", lambda: _active().wanting(suspended)
    yield "active-suspending-begun", lambda: _active().wanting(suspended).switching()
    yield "active-suspending-taken-back", lambda: _active().wanting(suspended).switching().wanting(active)
    yield "active-suspending-failed", lambda: _active().wanting(suspended).troubled(can_heal=False)
    yield "active-resumed", lambda: _suspended().wanting(active).traffic(suspended=False)

    yield "suspended", _suspended
    yield "suspended-from-the-start", lambda: _begun(suspended).rests()
    yield "suspended-rolling-out", lambda: _suspended().rolling_out()
    yield "suspended-degraded", lambda: _suspended().degraded(is_down=True)
    yield "suspended-refused-cancel", lambda: _suspended().asking(Action.CANCEL)
    yield "suspended-upkeep-failed", lambda: _suspended().troubled(can_heal=False)
    yield "suspended-resuming", lambda: _suspended().wanting(active)
    yield "suspended-resuming-begun", lambda: _suspended().wanting(active).switching()
    yield "suspended-resuming-after-rollout", lambda: _suspended().rolling_out().wanting(active)
    yield "suspended-resuming-retrying", lambda: _suspended().wanting(active).troubled(can_heal=True)
    yield "suspended-resuming-failed", lambda: _suspended().wanting(active).troubled(can_heal=False)

    yield "failed", _failed
    yield "failed-timed-out", lambda: _begun().until(_A.WAIT_READY).times_out().rests()
    yield "failed-structural", _structural
    yield "failed-refused-cancel", lambda: _failed().asking(Action.CANCEL)
    yield "failed-reset", lambda: _failed().asking(Action.RESET)
    yield "failed-reset-holding", lambda: _begun().until(_A.WAIT_READY).abandoned()
    yield "failed-wanted-suspended", lambda: _begun(suspended).until(_A.WAIT_READY).times_out().rests()

    yield "decommissioning", _releasing
    yield (
        "decommissioning-retrying",
        lambda: (
            _releasing()
            .until(_A.DEPLOY_WORKLOADS, RowState.COMPENSATING)
            .fails(_A.DEPLOY_WORKLOADS, Unavailable("the API server is busy"))
        ),
    )
    yield "decommissioning-stuck", lambda: _stuck(_releasing())
    yield "decommissioning-wanted-active", lambda: _releasing().wanting(active)
    yield "decommissioning-deleted", lambda: _active().deleted()
    yield "decommissioning-deleted-stuck", lambda: _stuck(_active().deleted())
    yield "decommissioned-deleted-after-failure", lambda: _failed().deleted()

    yield "decommissioned", _released
    yield "decommissioned-from-cancelled", lambda: _cancelled().wanting(decommissioned).rests()
    yield "decommissioned-refused-retry", lambda: _released().asking(Action.RETRY)
    yield "decommissioned-wanted-suspended", lambda: _released().wanting(suspended)
    yield "decommissioned-deleted", lambda: _active().deleted().rests()


def _manifest(record: Tenant) -> Object:
    """The record as the API server hands it out."""
    metadata = record.metadata
    told: Object = {
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        "resourceVersion": metadata.resource_version,
        "generation": metadata.generation,
        "creationTimestamp": START.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "finalizers": [FINALIZER],
    }
    if metadata.deletion_timestamp is not None:
        told["deletionTimestamp"] = metadata.deletion_timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")
        told["deletionGracePeriodSeconds"] = 0
    wire = record.to_wire()
    return {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Tenant",
        "metadata": told,
        "spec": wire["spec"],
        "status": wire["status"],
    }


def _unobserved() -> Object:
    return {**_manifest(tenant()), "status": {"observedGeneration": -1}}


def _unseen(name: str, *, desired: str | None = None, deleted: bool = False) -> Object:
    manifest = _copy(_states()[name])
    manifest["metadata"]["generation"] += 1
    if desired is not None:
        manifest["spec"]["desiredState"] = desired
    if deleted:
        manifest["metadata"]["deletionTimestamp"] = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    return manifest


def _asked(name: str, action: Action) -> Object:
    manifest = _copy(_states()[name])
    manifest["metadata"]["annotations"] = {
        "intelliauth.io/action": action.value,
        "intelliauth.io/requested-by": "alice",
    }
    return manifest


def _copy(manifest: Object) -> Object:
    """A manifest that nobody else changes."""
    return {key: _copied(value) for key, value in manifest.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
