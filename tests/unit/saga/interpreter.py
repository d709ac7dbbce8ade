"""Drives a saga through random outcomes, without an engine loop or a world: only `settle`, `evolve` and a clock."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import strategies as st

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.api.states import RunReason
from tenant_operator.saga.decide import (
    Act,
    Decision,
    Rest,
    Undo,
    Wait,
    after_failure,
    compensation_failed,
    decide,
    settle,
)
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tenant_operator.saga.evolve import Worker, evolve
from tenant_operator.saga.facts import (
    ActivityCompleted,
    Checkpointed,
    CompensationCompleted,
    Fact,
    HistoryReset,
    Pulsed,
    RunReversed,
    RunStarted,
    RunTakenOver,
)
from tenant_operator.saga.model import Direction, Kind, Outcome, Reservation, RowState, Saga
from tenant_operator.saga.sight import Moment, Sight, look
from tenant_operator.saga.step import RetryPolicy, Step

START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
A_WORKER = Worker("worker-1", 1, START)

PHASE_OF = {
    ActivityName.VALIDATE_REQUEST: PhaseName.VALIDATE,
    ActivityName.ALLOCATE_NAMESPACE: PhaseName.ALLOCATE,
    ActivityName.ALLOCATE_STORAGE: PhaseName.ALLOCATE,
    ActivityName.ALLOCATE_IDENTITY_STORE: PhaseName.ALLOCATE,
    ActivityName.ALLOCATE_TRAFFIC_BOUNDARY: PhaseName.ALLOCATE,
    ActivityName.APPLY_SCHEMA: PhaseName.ALLOCATE,
    ActivityName.DEPLOY_WORKLOADS: PhaseName.DEPLOY,
    ActivityName.WAIT_READY: PhaseName.DEPLOY,
    ActivityName.MARK_ACTIVE: PhaseName.ACTIVATE,
    ActivityName.SEND_WELCOME_EMAILS: PhaseName.WELCOME,
}
_LEAVES_NOTHING = (ActivityName.VALIDATE_REQUEST, ActivityName.WAIT_READY, ActivityName.SEND_WELCOME_EMAILS)
_HOLDS = (
    ActivityName.ALLOCATE_NAMESPACE,
    ActivityName.ALLOCATE_STORAGE,
    ActivityName.ALLOCATE_IDENTITY_STORE,
    ActivityName.ALLOCATE_TRAFFIC_BOUNDARY,
    ActivityName.DEPLOY_WORKLOADS,
)


def step(activity: str, **changes: object) -> Step:
    """A step of the tenant's plan, as plain as it can be."""
    name = ActivityName(activity)
    plain = Step(
        activity=name,
        phase=PHASE_OF[name],
        timeout=timedelta(minutes=1),
        retry=RetryPolicy(),
        best_effort=name is ActivityName.SEND_WELCOME_EMAILS,
        compensates=name not in _LEAVES_NOTHING,
        reserves=(Reservation("Thing", f"{name}-1"),) if name in _HOLDS else (),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> Random:
    """The same choices in every run."""
    return Random(seed)


def all_steps(**changes: object) -> dict[str, Step]:
    """The whole plan."""
    return {name: step(name, **changes) for name in ActivityName}


@st.composite
def plans(draw: st.DrawFn, whole: bool = False) -> Mapping[str, Step]:
    """Steps with any timeout and any retry budget; some of the plan, or the `whole` of it."""
    chosen = [name for name in ActivityName if whole or draw(st.booleans())] or [ActivityName.VALIDATE_REQUEST]
    return {
        name: step(
            name,
            timeout=timedelta(seconds=draw(st.integers(1, 120))),
            retry=RetryPolicy(
                max_tries=draw(st.integers(1, 4)),
                initial=timedelta(seconds=draw(st.sampled_from([0.1, 1.0, 5.0]))),
                maximum=timedelta(seconds=draw(st.sampled_from([5.0, 30.0]))),
                stalled_every=timedelta(seconds=draw(st.integers(30, 90))),
            ),
            best_effort=name is ActivityName.SEND_WELCOME_EMAILS or (not whole and draw(st.integers(0, 4)) == 0),
        )
        for name in chosen
    }


def at(seconds: float) -> datetime:
    """The wall time of a moment of the interpreter's monotonic clock."""
    return START + timedelta(seconds=seconds, microseconds=1)


@dataclass(frozen=True)
class Happened:
    """One fact, with the saga on both sides of it."""

    fact: Fact
    before: Saga
    after: Saga
    now: datetime
    worker: Worker


@dataclass
class Interpreter:
    """Lives the saga step by step; `log` is all that happened. `eventful`: how often things go wrong, in percent."""

    steps: Mapping[str, Step]
    random: Random
    eventful: int = 30
    saga: Saga = field(default_factory=Saga)
    now: datetime = START
    worker: Worker = A_WORKER
    log: list[Happened] = field(default_factory=list)
    journalled: Callable[[Saga, list[Fact], datetime], None] = lambda saga, facts, now: None
    turns: int = 0
    sight: Sight | None = None
    error: timedelta = timedelta(0)
    """By how much the wall clock is wrong."""

    @property
    def moment(self) -> Moment:
        """Now, by both clocks."""
        return Moment(self.now + self.error, (self.now - START).total_seconds())

    def look(self) -> Sight:
        """What the worker sees of the run now."""
        self.sight = look(self.saga, self.steps, self.sight, self.moment, self.worker)
        return self.sight

    def decision(self) -> Decision:
        """What is next."""
        return decide(self.saga, self.steps, self.look(), self.worker)

    def happen(self, *facts: Fact) -> None:
        """Journal the facts, and what follows from them, in one entry."""
        entry = list(facts)
        before = self.saga
        for fact in facts:
            self._evolve(fact)
        _, followed, _ = settle(self.saga, self.steps, self.look(), self.moment, self.worker)
        for fact in followed:
            self._evolve(fact)
        if entry + followed:
            assert before is not self.saga
            self.journalled(before, entry + followed, self.now)

    def _evolve(self, fact: Fact) -> None:
        wall = self.moment.wall
        after = evolve(self.saga, fact, wall, self.worker, self.steps)
        self.log.append(Happened(fact, self.saga, after, wall, self.worker))
        self.saga = after
        self.look()

    def start(self, kind: Kind = Kind.PROVISION, reason: str = RunReason.CREATED) -> None:
        """A run begins."""
        self.happen(RunStarted(f"run-{len(self.log)}", kind, reason, "alice"))

    def reverse(self) -> None:
        """The run is told to stop, if it still goes forward."""
        run = self.saga.run
        if run is not None and not run.finished and run.direction is Direction.FORWARD:
            self.happen(RunReversed(RunReason.CANCELLED, "bob"))

    def crash(self) -> None:
        """Another worker goes on, some time later."""
        self.now += timedelta(seconds=self.random.uniform(0.1, 100))
        self.succeeded()
        self.happen()

    def succeeded(self) -> None:
        """Another worker, which came to life just now and has seen nothing yet, looks at the saga."""
        fence = self.worker.fence + 1
        self.worker = Worker(f"worker-{fence}", fence, self.moment.wall)
        self.sight = None
        self.look()

    def run(self, max_turns: int = 1500) -> None:
        """Until there is nothing left to do."""
        while self.turn():
            self.turns += 1
            assert self.turns < max_turns, f"no end in sight: {self.saga}"

    def turn(self) -> bool:
        """One decision and one outcome. False: at rest."""
        wild = self.turns < 400 and self.random.randrange(100) < self.eventful
        self.now += timedelta(seconds=self.random.uniform(0.01, 1.5))
        _, followed, decision = settle(self.saga, self.steps, self.look(), self.moment, self.worker)
        if followed:
            self.happen()
            return True
        if wild and self.random.randrange(4) == 0 and not isinstance(decision, Rest):
            self.crash()
            return True
        match decision:
            case Rest():
                return False
            case Wait(until):
                assert until > self.moment.elapsed, "a wait must end later than now"
                self._sleep(at(until))
            case Act(activity, deadline):
                assert deadline > self.moment.elapsed
                self._act(activity, deadline, wild)
            case Undo(activity, deadline):
                self._undo(activity, deadline, wild)
        return True

    def _act(self, activity: str, deadline: float, wild: bool) -> None:
        if not wild:
            self.happen(ActivityCompleted(activity, f"{activity} is done"))
            return
        match self.random.randrange(8):
            case 0:
                self.happen(self._failure(activity, Rejected(f"{activity} is refused")))
            case 1 | 2:
                self.happen(self._failure(activity, Unavailable(f"{activity} met a busy server")))
            case 3:
                self.happen(self._failure(activity, Outage(f"{activity} met nobody")))
            case 4:
                self._sleep(at(deadline))
                self.happen()
            case 5:
                self.happen(Pulsed(activity, "still at it", self.random.randrange(101)))
            case 6:
                self.happen(Checkpointed(activity, f"part {len(self.saga.row(activity).checkpoints) % 16}"))
            case _:
                self.reverse()

    def _undo(self, activity: str, deadline: float, wild: bool) -> None:
        row, how = self.saga.row(activity), self.steps[activity]
        if not wild:
            self.happen(CompensationCompleted(activity, f"{activity} is undone"))
            return
        match self.random.randrange(5):
            case 4:
                self.happen(self._failure(activity, Outage(f"{activity} met nobody")))
            case 0:
                self.happen(self._failure(activity, Rejected(f"{activity} cannot be undone")))
            case 1:
                self.happen(self._failure(activity, Unavailable(f"{activity} met a busy server")))
            case 2:
                self._sleep(max(self.now, at(deadline)))
                jitter, cause = self.random.random(), "still waiting"
                failed = compensation_failed(row, how, cause, self.moment, outage=False, for_good=True, jitter=jitter)
                self.happen(failed)
            case _:
                self.happen(Pulsed(activity, "still undoing"))

    def _failure(self, activity: str, error: Exception) -> Fact:
        return self.failure(activity, error, self.random.random())

    def failure(self, activity: str, error: Exception, jitter: float = 0.0) -> Fact:
        """What a failed try of the activity in hand amounts to."""
        return after_failure(self.saga, self.steps[activity], error, self.look(), self.moment, jitter)

    def sleep(self, seconds: float) -> None:
        """Time passes, and the run is looked at meanwhile as a waiting one is."""
        self._sleep(self.now + timedelta(seconds=seconds))

    def _sleep(self, until: datetime) -> None:
        while self.now < until:
            self.now = min(self.now + timedelta(seconds=10), until)
            self.look()

    def lives(self, runs: int) -> None:
        """Several runs, one after the other, as a tenant might see them: attempts, releases, resets."""
        self.start()
        self.run()
        for _ in range(runs):
            completed = self.saga.run is not None and self.saga.run.outcome is Outcome.COMPLETED
            match self.random.randrange(3):
                case choice if completed or choice == 0:
                    self.start(Kind.RELEASE, RunReason.DECOMMISSIONED)
                case 1:
                    self.happen(HistoryReset())
                    self.start(reason=RunReason.RETRIED)
                case _:
                    self.start(reason=RunReason.RETRIED)
            self.turns = 0
            self.run()


@st.composite
def interpreters(draw: st.DrawFn, whole: bool = False) -> Interpreter:
    """An interpreter that has not begun."""
    return Interpreter(
        draw(plans(whole=whole)),
        seeded(draw(st.integers(0, 2**32))),
        draw(st.sampled_from([0, 10, 30, 60, 90])),
    )


@st.composite
def finished_runs(draw: st.DrawFn) -> Interpreter:
    """One provisioning run from its start to rest."""
    interpreter = draw(interpreters())
    interpreter.start()
    interpreter.run()
    return interpreter


def taken_over(log: list[Happened]) -> list[Happened]:
    """Every change of hands."""
    return [each for each in log if isinstance(each.fact, RunTakenOver)]


UNFINISHED = (RowState.RUNNING, RowState.COMPENSATING)
