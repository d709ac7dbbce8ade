"""The image is made of what is locked, from the files that the builder may see, and runs as nobody in particular."""

import re
import shlex
import tomllib

import pytest

from devcluster.platform import ROOT

RUNTIME, BUILD, EVERYTHING = "requirements-runtime.lock", "requirements-build.lock", "requirements.lock"

Instruction = tuple[str, str]
"""Its keyword and the rest, on one line."""


def stages() -> list[list[Instruction]]:
    """The instructions of the Dockerfile; what comes before the first FROM is a stage as well."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[list[Instruction]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            if keyword == "FROM":
                found.append([])
            found[-1].append((keyword, rest.strip()))
    return found


HEAD, BUILDER, IMAGE = stages()


def of(stage: list[Instruction], keyword: str) -> list[str]:
    return [rest for each, rest in stage if each == keyword]


def locked(name: str) -> dict[str, set[str]]:
    """The hashes of each pinned package."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^(\S+==[^\s;]+).*\n((?:    --hash=.*\n)+)", text, re.MULTILINE)
    return {pin: set(re.findall(r"sha256:[0-9a-f]{64}", hashes)) for pin, hashes in blocks}


def test_both_stages_begin_with_the_base_that_is_asked_for() -> None:
    assert [rest.split("=")[0] for rest in of(HEAD, "ARG")] == ["BASE_IMAGE"]
    assert [rest.split()[0] for rest in of(BUILDER, "FROM") + of(IMAGE, "FROM")] == ["${BASE_IMAGE}"] * 2


def test_the_base_is_named_by_its_digest() -> None:
    (argument,) = of(HEAD, "ARG")

    assert re.fullmatch(r"BASE_IMAGE=[^\s@]+/python:3\.13[^\s@]*@sha256:[0-9a-f]{64}", argument)


def test_it_runs_as_a_number_that_is_not_root() -> None:
    (user,) = of(IMAGE, "USER")
    assert all(int(number) > 0 for number in user.split(":"))


def test_nothing_is_done_in_the_image_itself() -> None:
    """It has the environment that the builder has made, and no tools."""
    assert of(IMAGE, "RUN") == []
    assert of(IMAGE, "COPY") == ["--from=builder /opt/tenant-operator /opt/tenant-operator"]


def test_it_starts_the_operator_and_is_ended_as_kubernetes_does() -> None:
    assert (of(IMAGE, "ENTRYPOINT"), of(IMAGE, "CMD")) == (['["tenant-operator"]'], ['["run"]'])
    assert of(IMAGE, "STOPSIGNAL") == ["SIGTERM"]


def test_whatever_pip_fetches_is_checked_by_its_hash() -> None:
    commands = [
        part for run in of(BUILDER, "RUN") for part in run.split("&&") if re.search(r"pip\b.* (install|wheel)", part)
    ]
    assert len(commands) == 4
    for command in commands:
        assert "--require-hashes" in command or "--no-index" in command, command


def test_the_builder_sees_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    shown = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source for rest in of(BUILDER, "COPY") for source in shlex.split(rest)[:-1]}

    assert "*" in lines
    assert {each.split("/")[0] for each in shown} == copied
    for each in shown:
        assert (ROOT / each).exists(), each


@pytest.mark.parametrize("name", [RUNTIME, BUILD, EVERYTHING])
def test_a_lock_names_hashes_and_no_registry(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = [line.split()[0] for line in text.splitlines() if line and line[0] not in " #"]

    assert sorted(locked(name)) == sorted(pins)
    assert "://" not in text


def test_the_image_has_what_was_tested() -> None:
    everything = locked(EVERYTHING)
    for pin, hashes in locked(RUNTIME).items():
        assert everything.get(pin) == hashes, f"{pin}: run `make lock`"


def test_the_wheel_is_built_by_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["build-system"]["requires"]) <= set(locked(BUILD))
