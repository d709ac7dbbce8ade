"""Every request at every activity, forward and backward, on a real cluster. (The simulation has the same table.)"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tenant_operator.api.names import ActivityName
from tests.e2e import catalog
from tests.e2e.gated_operator import GATE
from tests.e2e.test_state_table import all_of, ask, case, end, is_at, made, wait
from tests.e2e.world import World

EMAILS = ActivityName.SEND_WELCOME_EMAILS
GATED = [name for name in ActivityName if name != EMAILS]
PATIENT = {str(name): "1h" for name in ActivityName}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that keeps the gates shut."""
    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path_factory.mktemp("gate") / "shut"
        patch.setenv(GATE, str(file))
        yield file


@pytest.fixture
def shut(gate: Path) -> Iterator[Path]:
    """The gates, shut until the file is gone."""
    gate.touch()
    yield gate
    gate.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def operator_command(gate: Path) -> Sequence[str]:
    return (sys.executable, "-m", "tests.e2e.gated_operator", "run")


def test_requests_at_every_activity_forward(world: World, shut: Path) -> None:
    """It can be turned until it serves; from then on the emails are all that is left of the run."""
    world.offer(catalog.plan("held", timeouts=PATIENT))
    cases = {
        name: made(world, case(f"f-{name}", "Active", legal=["cancel"], cancel="Pending", suspend="Suspended"), "held")
        for name in GATED
    }
    cases[EMAILS] = made(world, case(f"f-{EMAILS}", "Active", suspend="Suspended"), "held")
    for name, one in cases.items():
        wait(world, all_of([one]), is_at(name, "Running"), f"runs {name}")
    ask(world, list(cases.values()))
    shut.unlink()
    end(world, list(cases.values()))


def test_requests_at_every_activity_backward(world: World, shut: Path) -> None:
    """A rollback is not to be turned; lasting intent is seen to afterwards."""
    world.offer(catalog.plan("held", timeouts=PATIENT))
    cases = {name: made(world, case(f"b-{name}", "Failed", legal=["cancel"]), "held") for name in GATED}
    for name, one in cases.items():
        wait(world, all_of([one]), is_at(name, "Compensating"), f"rolls back {name}")
    ask(world, list(cases.values()))
    shut.unlink()
    end(world, list(cases.values()))
