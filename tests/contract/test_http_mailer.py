"""What the HTTP API adds to the promises of a mailer: the request, and what each status means."""

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from tenant_operator.adapters.http_mail import HttpMailer
from tenant_operator.saga.errors import Outage, Rejected
from tests.contract.loopback import HttpServer, http_server, own_authority
from tests.contract.mail_receivers import MAIL, SENDER, SUPPORT, TOKEN, http_mailer


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
async def provider() -> AsyncIterator[HttpServer]:
    async with http_server() as server:
        server.status = 202
        yield server


async def test_the_request(provider: HttpServer, client: httpx.AsyncClient) -> None:
    await http_mailer(provider.url, client, reply_to=SUPPORT).send(MAIL)

    [request] = provider.requests
    assert (request.method, request.path) == ("POST", "/v1/things")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["idempotency-key"] == MAIL.key
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "from": SENDER,
        "to": ["admin@bank.example"],
        "reply_to": SUPPORT,
        "subject": MAIL.subject,
        "text": MAIL.text,
        "html": MAIL.html,
        "headers": {"Auto-Submitted": "auto-generated"},
    }


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_what_can_heal(provider: HttpServer, client: httpx.AsyncClient, status: int) -> None:
    provider.status = status

    with pytest.raises(Outage, match=f"answered {status}"):
        await http_mailer(provider.url, client).send(MAIL)


@pytest.mark.parametrize("status", [200, 401, 404, 405, 500])
async def test_a_question_sends_nothing_and_any_answer_is_one(
    provider: HttpServer, client: httpx.AsyncClient, status: int
) -> None:
    provider.status = status

    await http_mailer(provider.url, client).check()

    assert [request.method for request in provider.requests] == ["HEAD"]
    assert "authorization" not in provider.requests[0].headers


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_provider_that_cannot_serve_is_away(
    provider: HttpServer, client: httpx.AsyncClient, status: int
) -> None:
    provider.status = status

    with pytest.raises(Outage, match=f"answered {status}"):
        await http_mailer(provider.url, client).check()


@pytest.mark.parametrize("status", [302, 307, 400, 401, 403, 404, 409, 413, 422])
async def test_what_cannot_heal(provider: HttpServer, client: httpx.AsyncClient, status: int) -> None:
    provider.status = status
    provider.headers = {"Location": "/v1/elsewhere"}

    with pytest.raises(Rejected, match=f"answered {status}"):
        await http_mailer(provider.url, client).send(MAIL)

    assert [request.path for request in provider.requests] == ["/v1/things"]


async def test_a_long_reply_that_quotes_the_token_is_told_in_part(
    provider: HttpServer, client: httpx.AsyncClient
) -> None:
    provider.status = 403
    provider.body = f"bad token {TOKEN}\n".encode() + b"x" * 100_000

    with pytest.raises(Rejected, match=r"answered 403: bad token \*\*\* xxx") as told:
        await http_mailer(provider.url, client).send(MAIL)

    assert len(told.value.message) < 300


@pytest.mark.parametrize("token", ["hush\n", "hüsh"])
async def test_a_token_that_no_header_can_carry_is_refused_at_once(client: httpx.AsyncClient, token: str) -> None:
    with pytest.raises(ValueError, match="does not fit into a header") as told:
        HttpMailer("https://mail.example/", SecretStr(token), sender=SENDER, client=client)

    assert token.strip() not in str(told.value)


async def test_only_a_trusted_certificate_gets_the_token(tmp_path: Path) -> None:
    tls, authority = own_authority(tmp_path)
    trusting = ssl.create_default_context(cafile=authority)
    async with (
        http_server(tls) as server,
        httpx.AsyncClient() as stranger,
        httpx.AsyncClient(verify=trusting) as friend,
    ):
        with pytest.raises(Rejected, match="certificate not trusted"):
            await http_mailer(server.url, stranger).send(MAIL)
        assert server.requests == []

        await http_mailer(server.url, friend).send(MAIL)

    assert len(server.requests) == 1
