"""The script of `helm test` tells the responder from what is not it."""

import asyncio
import importlib.util
from types import ModuleType

import pytest
from aiohttp import web

from devcluster import ports
from tenant_operator.adapters.health import Need, serve_health
from tenant_operator.adapters.paused import serve_paused
from tenant_operator.adapters.web import serving
from tools.chart import CHART

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("helm_test", CHART / "files" / "test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def port() -> int:
    return ports.choose(1)[0]


async def test_the_responder_says_come_back_later(script: ModuleType, port: int) -> None:
    async with serve_paused(HOST, port):
        said = await asyncio.to_thread(script.check_responder, f"http://{HOST}:{port}")

    assert said == f"http://{HOST}:{port} answers 503, Retry-After 60 s"


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [(200, {"Retry-After": "60"}, "answered 200"), (503, {}, "Retry-After ''"), (503, {"Retry-After": "soon"}, "soon")],
)
async def test_another_server_is_not_the_responder(
    script: ModuleType, port: int, status: int, headers: dict[str, str], words: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    async with serving(HOST, port, [web.get("/", answer)]):
        with pytest.raises(script.Failure, match=words):
            await asyncio.to_thread(script.check_responder, f"http://{HOST}:{port}")


async def test_what_the_operator_says_of_its_needs_is_told(script: ModuleType, port: int) -> None:
    needs = [Need("operator"), Need("mail", "no answer", vital=False)]
    async with serve_health(HOST, port, lambda: needs):
        said = await asyncio.to_thread(script.check_needs, HOST, port)
        assert said == f"the operator at {HOST} is ready: operator: ok; mail: no answer"

        needs.append(Need("database", "wrong password"))
        with pytest.raises(script.Failure, match="is not ready: operator: ok; mail: no answer; database: wrong"):
            await asyncio.to_thread(script.check_needs, HOST, port)


def test_no_pod_is_told(script: ModuleType, port: int) -> None:
    with pytest.raises(script.Failure, match=r"leads nowhere .*: does the operator's pod run"):
        script.check_needs("nowhere.invalid", port)


def test_a_failure_is_told_and_ends_the_script(
    script: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEALTH_HOST", HOST)
    monkeypatch.setenv("HEALTH_PORT", str(port))

    assert script.main() == 1
    assert f"http://{HOST}:{port}/readyz did not answer" in capsys.readouterr().err
