"""A prober tells the status of a URL, or why there is none."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from tenant_operator.adapters.http_probe import HttpProber, probing_client
from tenant_operator.ports import Prober
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.contract.loopback import HttpServer, http_server, own_authority, unused_port
from tests.fakes.prober import FakeProber


class Site(Protocol):
    """What is probed."""

    url: str

    def answer(self, status: int) -> None: ...

    def stop_answering(self) -> None: ...


class FakeSite:
    """The answers of the fake."""

    url = "http://tenant.example/ready"

    def __init__(self, prober: FakeProber) -> None:
        self._prober = prober

    def answer(self, status: int) -> None:
        self._prober.answers = {self.url: status}

    def stop_answering(self) -> None:
        async def time_out(operation: str, name: str) -> None:
            raise Unavailable(f"GET {name}: no answer within 0.2 s")

        self._prober.before = time_out


class RealSite:
    """A server on loopback."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self.url = server.url

    def answer(self, status: int) -> None:
        self._server.status = status
        self._server.headers = {"Location": "/elsewhere", "Set-Cookie": "session=1; Path=/"}

    def stop_answering(self) -> None:
        self._server.silent = True


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with http_server() as server:
        yield server


@pytest.fixture
async def prober_on_the_wire() -> AsyncIterator[HttpProber]:
    async with probing_client() as client:
        yield HttpProber(client)


@pytest.fixture(params=["fake", "http"])
def probed(request: pytest.FixtureRequest, server: HttpServer, prober_on_the_wire: HttpProber) -> tuple[Prober, Site]:
    if request.param == "http":
        return prober_on_the_wire, RealSite(server)
    fake = FakeProber()
    return fake, FakeSite(fake)


@pytest.mark.parametrize("status", [200, 204, 301, 404, 503])
async def test_whatever_the_status_it_is_told(probed: tuple[Prober, Site], status: int) -> None:
    prober, site = probed
    site.answer(status)

    assert await prober.status(site.url, 5) == status


async def test_silence_is_unavailable_after_the_timeout(probed: tuple[Prober, Site]) -> None:
    prober, site = probed
    site.stop_answering()

    with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
        await prober.status(site.url, 0.2)


async def test_nobody_listening_is_unavailable(probed: tuple[Prober, Site]) -> None:
    prober, _ = probed

    with pytest.raises(Unavailable, match="connection refused"):
        await prober.status(f"http://127.0.0.1:{unused_port()}/ready", 5)


async def test_what_is_no_web_address_is_rejected(probed: tuple[Prober, Site]) -> None:
    prober, _ = probed

    with pytest.raises(Rejected, match="not an http or https URL"):
        await prober.status("ftp://tenant.example/ready", 5)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999/", "http://xn--a/", "http://\x00/", "http://\u2028/", "http://256.1.1.1/", "http://"],
)
async def test_an_address_that_nobody_can_have_is_rejected(prober_on_the_wire: HttpProber, url: str) -> None:
    with pytest.raises(Rejected):
        await prober_on_the_wire.status(url, 5)


async def test_a_redirect_is_not_followed_and_no_cookie_is_kept(
    server: HttpServer, prober_on_the_wire: HttpProber
) -> None:
    RealSite(server).answer(302)

    await prober_on_the_wire.status(server.url, 5)
    await prober_on_the_wire.status(server.url, 5)

    assert [request.path for request in server.requests] == ["/v1/things", "/v1/things"]
    assert not any("cookie" in request.headers for request in server.requests)


async def test_a_lost_connection_is_unavailable(server: HttpServer, prober_on_the_wire: HttpProber) -> None:
    server.hangs_up = True

    with pytest.raises(Unavailable, match="Server disconnected"):
        await prober_on_the_wire.status(server.url, 5)


async def test_an_unknown_host_is_unavailable(prober_on_the_wire: HttpProber) -> None:
    with pytest.raises(Unavailable, match="does not resolve"):
        await prober_on_the_wire.status("http://nowhere.invalid/", 60)


async def test_the_message_keeps_the_secrets_of_the_url(prober_on_the_wire: HttpProber) -> None:
    with pytest.raises(Unavailable) as failure:
        await prober_on_the_wire.status(f"http://user:hush@127.0.0.1:{unused_port()}/ready?key=hush", 5)

    assert "hush" not in failure.value.message
    assert "/ready" in failure.value.message


async def test_only_a_trusted_certificate_counts(tmp_path: Path) -> None:
    tls, authority = own_authority(tmp_path)
    async with http_server(tls) as server, probing_client() as stranger, probing_client(authority) as friend:
        with pytest.raises(Unavailable, match="certificate not trusted"):
            await HttpProber(stranger).status(server.url, 5)

        assert await HttpProber(friend).status(server.url, 5) == 200
