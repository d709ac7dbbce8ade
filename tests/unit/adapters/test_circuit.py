"""A server that is away is asked by one; when it is back, whoever waits for it goes on."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenant_operator.adapters.circuit import LONGEST_PAUSE, Circuit, SparingMailer
from tenant_operator.ports import Mail
from tenant_operator.saga.errors import NotAsked, Outage, Rejected, Unavailable
from tests.fakes.mailer import FakeMailer
from tests.simulation.virtual_time import VirtualClock, run

LIMIT = 3


async def lets_in(circuit: Circuit) -> bool:
    """Whether a call may be made now."""
    try:
        async with circuit:
            return True
    except NotAsked:
        return False


class Server:
    """A server that is away between `down` and `up` (virtual seconds); each call takes 50 ms."""

    def __init__(self, down: float = 0.0, up: float = 0.0) -> None:
        self.down, self.up = down, up
        self.asked: list[float] = []
        self.called: list[float] = []
        self.at_once = self.most_at_once = 0
        self.circuit = Circuit("PostgreSQL", self.ask, limit=LIMIT, clock=VirtualClock())

    def _is_away(self) -> bool:
        return self.down <= asyncio.get_running_loop().time() < self.up

    async def ask(self) -> None:
        """What the circuit asks on its own behalf."""
        self.asked.append(asyncio.get_running_loop().time())
        if self._is_away():
            raise Outage("PostgreSQL: connection refused")

    async def call(self) -> None:
        """What a saga wants of it."""
        async with self.circuit:
            self.called.append(asyncio.get_running_loop().time())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.sleep(0.05)
                if self._is_away():
                    raise Outage("PostgreSQL: connection refused")
            finally:
                self.at_once -= 1


async def until_done(server: Server, wake: asyncio.Event) -> float:
    """A saga: it calls, waits for the circuit if it was not let in, a second if it was let in and failed."""
    loop = asyncio.get_running_loop()
    while True:
        closed = wake.is_set()
        try:
            await server.call()
        except NotAsked:
            if not closed:
                await wake.wait()
        except Outage:
            await asyncio.sleep(1)
        else:
            return loop.time()


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 20),
    st.floats(0.1, 300),
    st.lists(st.floats(0, 400), min_size=1, max_size=60),
)
def test_a_server_that_is_away_is_spared_and_all_go_on_when_it_is_back(
    down: float, outage: float, arrivals: list[float]
) -> None:
    async def story() -> Server:
        server = Server(down, down + outage)
        wakes: list[asyncio.Event] = []

        def closed() -> None:
            for wake in wakes:
                wake.set()

        server.circuit.on_closed = closed

        async def saga(arrival: float) -> float:
            await asyncio.sleep(arrival)
            wake = asyncio.Event()
            wakes.append(wake)
            return await until_done(server, wake) - max(arrival, server.up if arrival >= server.down - 0.1 else arrival)

        late = await asyncio.gather(*map(saga, arrivals))
        # The turn of all who wait comes at once, but only so many at a time are let in.
        stampede = 0.05 * (len(arrivals) // LIMIT + 1)
        assert max(late) <= LONGEST_PAUSE + 1 + stampede + 0.2
        await server.circuit.close()
        return server

    server = run(story())
    calls = [each for each in server.called if server.down <= each + 0.05 < server.up]
    assert len(calls) <= LIMIT, "after the first failure nobody is let in"
    asked = [each for each in server.asked if server.down <= each < server.up]
    assert len(asked) <= outage / LONGEST_PAUSE + 5
    assert all(later - earlier <= LONGEST_PAUSE + 0.001 for earlier, later in pairwise(asked))
    assert server.most_at_once <= LIMIT


def test_who_is_not_let_in_learns_since_when_and_why_and_waits_for_nothing() -> None:
    async def story() -> None:
        server = Server(0, 60)
        with pytest.raises(Outage, match="connection refused"):
            await server.call()
        before = asyncio.get_running_loop().time()
        with pytest.raises(NotAsked) as refusal:
            await server.call()
        assert asyncio.get_running_loop().time() == before
        assert refusal.value.message == (
            "PostgreSQL has been out of service since 00:00:00 UTC (connection refused); it is asked every 2 s"
        )
        await server.circuit.close()

    run(story())


def test_who_waits_for_a_place_when_it_opens_is_not_let_in() -> None:
    async def story() -> Server:
        server = Server(0, 60)
        ended = await asyncio.gather(*(server.call() for _ in range(50)), return_exceptions=True)
        assert sum(isinstance(each, NotAsked) for each in ended) == 50 - LIMIT
        await server.circuit.close()
        return server

    assert len(run(story()).called) == LIMIT


@pytest.mark.parametrize("error", [Unavailable("lock timeout"), Rejected("no"), RuntimeError("bug")])
def test_what_is_one_calls_own_does_not_open_it(error: Exception) -> None:
    async def story() -> None:
        server = Server()
        for _ in range(20):
            with pytest.raises(type(error)):
                async with server.circuit:
                    raise error
        assert await lets_in(server.circuit)

    run(story())


def test_a_failure_that_was_one_calls_alone_costs_the_others_one_question() -> None:
    async def story() -> None:
        server = Server()
        with pytest.raises(Outage):
            async with server.circuit:
                raise Outage("connection reset by peer")
        await asyncio.sleep(0)  # the question is asked, and answered
        await asyncio.sleep(0)
        assert await lets_in(server.circuit)
        assert server.asked == [0.0]

    run(story())


@pytest.mark.parametrize("answer", [Rejected("password authentication failed"), RuntimeError("bug")])
def test_any_answer_closes_it(answer: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async def ask() -> None:
            raise answer

        circuit = Circuit("PostgreSQL", ask, limit=LIMIT, clock=VirtualClock())
        with pytest.raises(Outage):
            async with circuit:
                raise Outage("away")
        await asyncio.sleep(1)
        assert await lets_in(circuit)

    run(story())


def test_a_server_that_takes_a_question_and_never_answers_is_away() -> None:
    async def story() -> None:
        async def ask() -> None:
            await asyncio.sleep(1000)

        circuit = Circuit("PostgreSQL", ask, limit=LIMIT, clock=VirtualClock())
        with pytest.raises(Outage):
            async with circuit:
                raise Outage("away")
        await asyncio.sleep(60)
        assert not await lets_in(circuit)
        await circuit.close()

    run(story())


def test_emails_go_through_it() -> None:
    async def story() -> None:
        mail, mailer, server = Mail("key", "a@b.example", "subject", "text", "html"), FakeMailer(), Server()
        sparing = SparingMailer(mailer, server.circuit)
        await sparing.send(mail)
        assert mailer.mails == [mail]

        async def away(operation: str, name: str) -> None:
            raise Outage("421 closing")

        mailer.before, server.up = away, 1.0
        with pytest.raises(Outage):
            await sparing.send(mail)
        with pytest.raises(NotAsked):
            await sparing.send(mail)
        await server.circuit.close()

    run(story())
