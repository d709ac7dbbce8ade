"""A look at mail server, mail provider and audit feed: what is wrong is told, and nothing is left behind."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from tenant_operator.adapters.jsonl_audit import JsonLinesAudit
from tenant_operator.ports import Reachable
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.contract.loopback import http_server, listening, unused_port
from tests.contract.mail_receivers import SecureSmtp, http_mailer, secure_smtp_servers, smtp_mailer, smtp_server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as running:
        yield running


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[SecureSmtp]:
    async with secure_smtp_servers(tmp_path) as servers:
        yield servers


async def test_a_mail_server_that_lets_us_in_is_reachable_and_gets_no_mail() -> None:
    async with smtp_server() as server:
        mailer: Reachable = server.mailer()
        await mailer.check()

    assert server.receiver.messages == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_the_look_at_a_mail_server_includes_trust_and_password(secure: SecureSmtp, tls: str) -> None:
    await secure.mailer(tls).check()
    with pytest.raises(Rejected, match="certificate not trusted"):
        await secure.mailer(tls, ca_file=None).check()
    with pytest.raises(Rejected, match="replied: 535") as told:
        await secure.mailer(tls, password=SecretStr("wrong-one")).check()

    assert "wrong-one" not in told.value.message
    assert secure.receiver.messages == []


async def test_a_mail_server_that_is_away_or_silent_is_told() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(Unavailable, match="connection refused"):
        await smtp_mailer(unused_port()).check()
    async with listening(listen) as port:
        with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
            await smtp_mailer(port, timeout=0.2).check()


@pytest.mark.parametrize("status", [200, 401, 404, 405])
async def test_a_provider_that_answers_is_reachable_and_is_asked_for_nothing(
    client: httpx.AsyncClient, status: int
) -> None:
    async with http_server() as provider:
        provider.status = status
        await http_mailer(provider.url, client).check()

    (asked,) = provider.requests
    assert (asked.method, asked.body) == ("HEAD", b"")
    assert "authorization" not in asked.headers


async def test_a_provider_that_is_away_is_told(client: httpx.AsyncClient) -> None:
    port = unused_port()

    with pytest.raises(Unavailable, match=f"mail provider 127.0.0.1:{port}"):
        await http_mailer(f"http://127.0.0.1:{port}/", client).check()


async def test_standard_output_is_always_there() -> None:
    await JsonLinesAudit("-").check()


async def test_a_file_that_can_be_appended_to_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    await JsonLinesAudit(path).check()
    assert not path.exists()

    path.write_text("{}\n")
    await JsonLinesAudit(path).check()
    assert path.read_text() == "{}\n"


async def test_a_file_that_cannot_be_appended_to_is_told(tmp_path: Path) -> None:
    nowhere, folder = tmp_path / "nowhere" / "audit.jsonl", tmp_path / "folder"
    folder.mkdir()
    for path, cause in ((nowhere, "no such file or directory"), (folder, "is a directory")):
        with pytest.raises(Unavailable, match=f"audit feed {path}: {cause}"):
            await JsonLinesAudit(path).check()


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    tmp_path.chmod(0o500)
    return tmp_path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written_is_told(unwritable: Path) -> None:
    with pytest.raises(Unavailable, match="permission denied"):
        await JsonLinesAudit(unwritable / "audit.jsonl").check()
