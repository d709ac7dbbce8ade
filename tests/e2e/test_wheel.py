"""The wheel alone is the product: installed into an environment of its own, it needs no file of the repository."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from devcluster.platform import ROOT
from tests.e2e.world import World

SECONDS = 300.0


@dataclass(frozen=True)
class Installed:
    """The wheel, the one that is built from the source distribution, and an environment that has the wheel."""

    wheel: Path
    from_source: Path
    programs: Path
    elsewhere: Path

    def run(self, program: str, *arguments: str) -> str:
        return _run(self.elsewhere, self.programs / program, *arguments)


def _run(folder: Path, program: Path, *arguments: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(  # noqa: S603
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{program} {arguments}: {done.stderr}"
    return done.stdout


def _only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Made as the image is made: what builds and what is needed at run time come from their lock files."""
    folder = tmp_path_factory.mktemp("wheel")
    tools, target = folder / "tools" / "bin", folder / "target" / "bin"
    dist, wheel, from_source = (folder / name for name in ("dist", "wheel", "from-source"))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    _run(folder, Path(sys.executable), "-m", "venv", tools.parent)
    _run(folder, Path(sys.executable), "-m", "venv", "--without-pip", target.parent)
    pip, locked = tools / "pip", ("install", "--quiet", "--retries=10", "--require-hashes", "--requirement")
    _run(folder, pip, *locked, ROOT / "requirements-build.lock")
    _run(folder, pip, "--python", target / "python", *locked, ROOT / "requirements-runtime.lock")

    _run(ROOT, tools / "hatchling", "build", "--target", "sdist", "--directory", dist)
    offline = ("--quiet", "--no-index", "--no-deps")
    _run(folder, pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheel, ROOT)
    _run(folder, pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", from_source, _only(dist))
    _run(folder, pip, "--python", target / "python", "install", *offline, _only(wheel))
    return Installed(_only(wheel), _only(from_source), target, elsewhere)


@pytest.fixture(scope="module")
def operator_command(installed: Installed) -> Sequence[str]:
    # `env` becomes the program that it starts, so that signals reach the operator.
    outside = ("env", "--unset=PYTHONPATH", f"--chdir={installed.elsewhere}")
    return (*outside, str(installed.programs / "tenant-operator"), "run")


def test_it_knows_its_version(installed: Installed) -> None:
    assert installed.run("tenant-operator", "version") == f"{version('tenant-operator')}\n"


def test_it_has_the_kinds(installed: Installed) -> None:
    files = sorted((ROOT / "crds").glob("*.yaml"))
    printed = installed.run("tenant-operator", "crds")
    assert sorted(printed.split("---\n")) == sorted(file.read_text(encoding="utf-8") for file in files)


def test_nothing_is_taken_from_the_repository(installed: Installed) -> None:
    found = installed.run("python", "-c", "import sys, tenant_operator; print(tenant_operator.__file__, *sys.path)")
    code, *path = found.split()
    assert Path(code).is_relative_to(installed.programs.parent)
    assert not [each for each in path if Path(each).is_relative_to(ROOT)]


def test_the_source_distribution_gives_the_same_wheel(installed: Installed) -> None:
    def content(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as archive:
            return {each.filename: each.CRC for each in archive.infolist()}

    assert content(installed.from_source) == content(installed.wheel)


def test_it_provisions_a_tenant(world: World) -> None:
    """Templates, migrations and emails are in the wheel."""
    tenant = world.tenant("packed")
    tenant.settles("Active")
    assert len(tenant.mails()) == 3
