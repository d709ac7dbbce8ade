"""The server of the webhooks, over real TLS: what its client gets, and what others do not get and cannot take."""

import asyncio
import contextlib
import http.client
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devcluster import ports
from devcluster.certificates import Authority
from tenant_operator.adapters.https_server import HttpsServer, Limits
from tenant_operator.adapters.serving_tls import CertificateError, Clients, ServingTls
from tests.contract.loopback import unused_port

TOKEN = "t0ken"
ASK = f"/{TOKEN}/echo"
SMALL = Limits(connections=4, first_seconds=0.5, body_seconds=0.5, idle_seconds=0.5, body=64 * 1024, large_body=1024)


async def echo(body: bytes) -> tuple[int, bytes]:
    return 200, body


class Peer:
    """A client of the server, trusted or not."""

    def __init__(self, port: int, authority: Path, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            self.context.load_cert_chain(*certificate)

    def request(self, path: str = ASK, body: bytes = b"{}", method: str = "POST") -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.context)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def connect(self) -> ssl.SSLSocket:
        """With the handshake done."""
        return self.context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), timeout=10), server_hostname="127.0.0.1"
        )

    def say(self, words: bytes) -> bytes:
        """Send it, and read until the server hangs up."""
        with self.connect() as connection:
            answer = b""
            with contextlib.suppress(OSError):
                connection.sendall(words)
                while chunk := connection.recv(65536):
                    answer += chunk
            return answer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@contextlib.asynccontextmanager
async def serving(
    authority: Authority, limits: Limits | None = None, clients: Clients | None = None, handler: Any = echo
) -> AsyncIterator[Peer]:
    pair = authority.serving_certificate("server")
    (port,) = ports.choose(1)
    tls = ServingTls(pair.certificate, pair.key, clients)
    async with HttpsServer("127.0.0.1", port, tls, {ASK: handler}, limits) as server:
        yield Peer(port, authority.pair.certificate)
        assert not server.ended.is_set()
    assert server.ended.is_set()
    assert not server.is_listening


def threaded(call: Callable[..., Any], *arguments: Any) -> Any:
    return asyncio.to_thread(call, *arguments)


async def test_a_question_is_answered_over_one_connection_again_and_again(authority: Authority) -> None:
    async with serving(authority) as peer:

        def ask_thrice() -> list[bytes]:
            connection = http.client.HTTPSConnection("127.0.0.1", peer.port, timeout=10, context=peer.context)
            answers = []
            for number in range(3):
                # The API server says how long it waits.
                connection.request("POST", f"{ASK}?timeout=5s", str(number).encode())
                answers.append(connection.getresponse().read())
                assert connection.sock is not None
            connection.close()
            return answers

        assert await threaded(ask_thrice) == [b"0", b"1", b"2"]


async def test_its_loop_is_not_the_operator_s(authority: Authority) -> None:
    """While the operator's loop hangs, it answers."""
    with ThreadPoolExecutor(1) as pool:
        async with serving(authority) as peer:
            asked = pool.submit(peer.request)
            assert asked.result(10)[0] == 200  # this blocks the loop that the server was opened in


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/"), ("POST", "/echo"), ("POST", "/T0KEN/echo"), ("POST", f"{ASK}/"), ("GET", ASK), ("POST", "/..")],
)
async def test_a_stranger_gets_a_bare_404(authority: Authority, method: str, path: str) -> None:
    async with serving(authority) as peer:
        status, body, headers = await threaded(peer.request, path, b"{}", method)

    assert (status, body) == (404, b"")
    assert headers == {"Content-Length": "0", "Connection": "close"}


async def test_a_refusal_is_heard_by_a_peer_that_is_still_sending(authority: Authority) -> None:
    async with serving(authority) as peer:
        for _ in range(10):
            assert (await threaded(peer.request, "/echo", b"x" * 40_000))[0] == 404


RAW = {
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
    "HTTP/1.0": (b"POST %b HTTP/1.0\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no host": (b"POST %b HTTP/1.1\r\n\r\n", 400),
    "a header without a name": (b"POST %b HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400),
    "two lengths": (b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    "no length": (b"POST %b HTTP/1.1\r\nHost: h\r\n\r\n", 411),
    "chunks": (b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    "both": (b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    "a negative length": (b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    "a length that is no number": (b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 0x10\r\n\r\n", 400),
    "too long": (b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n", 413),
    "a length of a thousand digits": (
        b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 1000 + b"\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize("case", RAW)
async def test_what_cannot_be_read_gets_a_bare_status(
    authority: Authority, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    words, status = RAW[case]
    async with serving(authority, SMALL) as peer:
        answer = await threaded(peer.say, words.replace(b"%b", ASK.encode()))

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.endswith(b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert caplog.records == []


async def test_a_head_without_end_is_refused(authority: Authority) -> None:
    """Whoever still sends when the server hangs up may not hear why."""
    async with serving(authority) as peer:
        answer = await threaded(peer.say, b"POST " + b"/" * 100_000)

    assert not answer or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "half",
    [b"", b"POST", b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc"],
    ids=["nothing", "head", "body"],
)
async def test_half_a_request_is_given_up(authority: Authority, half: bytes) -> None:
    async with serving(authority, SMALL) as peer:
        began = time.monotonic()
        assert await threaded(peer.say, half.replace(b"%b", ASK.encode())) == b""
        assert time.monotonic() - began < 5


async def test_a_handshake_that_does_not_begin_is_given_up(authority: Authority) -> None:
    async with serving(authority, SMALL) as peer:

        def wait() -> bytes:
            with socket.create_connection(("127.0.0.1", peer.port), timeout=5) as connection:
                return connection.recv(1)

        assert await threaded(wait) == b""


async def test_the_newest_connection_takes_the_place_of_the_most_silent_stranger(authority: Authority) -> None:
    """However many hold on to half a request, the client comes through; and it is not its connection that goes."""
    patient = Limits(connections=4, first_seconds=60)
    async with serving(authority, patient) as peer:

        def besiege() -> None:
            client = http.client.HTTPSConnection("127.0.0.1", peer.port, timeout=10, context=peer.context)
            client.request("POST", ASK, b"1")
            assert client.getresponse().read() == b"1"
            sockets = [socket.create_connection(("127.0.0.1", peer.port), timeout=10) for _ in range(40)]
            try:
                assert peer.request(body=b"2")[1] == b"2"
                client.request("POST", ASK, b"3")
                assert client.getresponse().read() == b"3"
                for early in sockets[:30]:
                    assert early.recv(1) == b""
            finally:
                client.close()
                for each in sockets:
                    each.close()

        await threaded(besiege)


async def test_large_bodies_wait_for_each_other_and_small_ones_do_not_wait(authority: Authority) -> None:
    begun, finish = asyncio.Queue[int](), asyncio.Event()
    here = asyncio.get_running_loop()
    at_work: list[None] = []

    async def slowly(body: bytes) -> tuple[int, bytes]:
        if len(body) > 1024:
            at_work.append(None)
            here.call_soon_threadsafe(begun.put_nowait, len(at_work))
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(finish.wait(), here))
            at_work.pop()
        return 200, b"done"

    limits = Limits(large_body=1024, large_bodies=2)
    async with serving(authority, limits, handler=slowly) as peer:
        asked = [asyncio.create_task(threaded(peer.request, ASK, b"x" * 2000)) for _ in range(5)]
        assert [await begun.get(), await begun.get()] == [1, 2]
        assert (await threaded(peer.request, ASK, b"small"))[1] == b"done"
        assert begun.empty()
        finish.set()
        answers = await asyncio.gather(*asked)

    assert [answer[:2] for answer in answers] == [(200, b"done")] * 5


async def test_told_to_end_it_answers_what_was_asked(authority: Authority) -> None:
    begun = asyncio.Event()
    here = asyncio.get_running_loop()

    async def slowly(body: bytes) -> tuple[int, bytes]:
        here.call_soon_threadsafe(begun.set)
        await asyncio.sleep(0.2)
        return 200, b"done"

    async with serving(authority, handler=slowly) as peer:
        asked = asyncio.create_task(threaded(peer.request))
        await begun.wait()

    assert (await asked)[1] == b"done"


async def test_a_port_that_is_taken_is_told(authority: Authority) -> None:
    pair = authority.serving_certificate("server")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            async with HttpsServer("127.0.0.1", port, ServingTls(pair.certificate, pair.key), {}):
                pass


async def test_a_stranger_is_said_at_most_once_a_minute(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(authority) as peer:
            for _ in range(3):
                await threaded(peer.request, "/from-before/echo")

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "do not have the token" in caplog.text
    assert "from-before" not in caplog.text


# Who may connect.


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of the API server's client certificate."""
    return Authority(tmp_path_factory.mktemp("clients"), "clients")


async def test_with_an_authority_for_clients_only_its_own_are_heard(
    authority: Authority, clients: Authority, tmp_path: Path
) -> None:
    ours = clients.client_certificate("ours", "kube-apiserver-webhooks")
    theirs = Authority(tmp_path, "others").client_certificate("theirs", "kube-apiserver-webhooks")
    async with serving(authority, clients=Clients(clients.pair.certificate)) as peer:
        trusted = authority.pair.certificate
        assert (await threaded(Peer(peer.port, trusted, certificate=(ours.certificate, ours.key)).request))[0] == 200
        for stranger in (peer, Peer(peer.port, trusted, certificate=(theirs.certificate, theirs.key))):
            with pytest.raises(OSError, match=r"(?i)alert|reset|closed|pipe|eof"):
                await threaded(stranger.request)


async def test_only_the_named_of_them_are_heard(authority: Authority, clients: Authority) -> None:
    named, other = (clients.client_certificate(name, name) for name in ("kube-apiserver", "another"))
    only = Clients(clients.pair.certificate, frozenset({"kube-apiserver"}))
    async with serving(authority, clients=only) as peer:
        trusted = authority.pair.certificate
        heard = Peer(peer.port, trusted, certificate=(named.certificate, named.key))
        assert (await threaded(heard.request))[0] == 200
        stranger = Peer(peer.port, trusted, certificate=(other.certificate, other.key))
        assert await threaded(stranger.say, b"POST %b HTTP/1.1\r\n\r\n".replace(b"%b", ASK.encode())) == b""


# The certificate.


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    with pytest.raises(CertificateError, match=r"tls\.crt"):
        ServingTls(certificate, key)
    certificate.write_text("no certificate")
    key.write_text("no key")
    with pytest.raises(CertificateError, match=r"tls\.crt"):
        ServingTls(certificate, key)


def test_an_authority_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    pair = authority.serving_certificate("server")
    with pytest.raises(CertificateError, match=r"clients of .*ca\.crt"):
        ServingTls(pair.certificate, pair.key, Clients(tmp_path / "ca.crt"))


def test_half_a_renewal_is_told_once_and_the_old_certificate_stays(authority: Authority, tmp_path: Path) -> None:
    first, second = (Authority(tmp_path, name).serving_certificate(f"{name}-server") for name in ("one", "two"))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(first.certificate.read_bytes())
    key.write_bytes(first.key.read_bytes())
    tls = ServingTls(certificate, key)
    before = tls.context
    assert tls.renew() is False

    certificate.write_bytes(second.certificate.read_bytes())
    with pytest.raises(CertificateError):
        tls.renew()
    assert tls.renew() is False
    assert tls.context is before
    key.write_bytes(second.key.read_bytes())
    assert tls.renew() is True
    assert tls.context is not before


def test_nothing_listens_before_it_is_opened(authority: Authority) -> None:
    pair = authority.serving_certificate("server")
    server = HttpsServer("127.0.0.1", unused_port(), ServingTls(pair.certificate, pair.key), {})

    assert not server.is_listening
