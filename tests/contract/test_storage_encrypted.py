"""A server that is reached encrypted and verified: by the operator, by its sessions as a tenant, and by the tenants.

Where Debian's PostgreSQL 15 is installed: the one from PyPI is built without TLS.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from devcluster.certificates import Authority
from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.saga.errors import Unavailable
from tests.contract.postgres_fixture import OLDEST, server
from tests.contract.test_storage import CREATE_A, TAG

NAME = "tenant_encrypted"


@dataclass(frozen=True)
class Encrypted:
    """The administrator's connection string, and the authority that the server's certificate is of."""

    dsn: str
    authority: Path


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Encrypted]:
    if not (OLDEST / "postgres").exists():
        pytest.skip(f"there is no PostgreSQL in {OLDEST}, and the one from PyPI is built without TLS")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        authority = Authority(place, "authority")
        pair = authority.serving_certificate("postgres")
        if os.geteuid() == 0:
            shutil.chown(pair.key, "nobody")
        with server(OLDEST, ssl="on", ssl_cert_file=str(pair.certificate), ssl_key_file=str(pair.key)) as running:
            yield Encrypted(
                make_conninfo(
                    running.dsn.replace("127.0.0.1", "localhost"),
                    sslmode="verify-full",
                    sslrootcert=str(authority.pair.certificate),
                ),
                authority.pair.certificate,
            )


async def test_every_session_is_encrypted_and_verified(encrypted: Encrypted) -> None:
    storage = PostgresStorage(encrypted.dsn)
    try:
        assert await storage.prepare() == []
        await storage.ensure_database(NAME, owner=NAME, password="owner", connection_limit=5, tag=TAG)
        identity = {"schema": "identity", "role": f"{NAME}_id", "password": "identity", "tag": TAG}
        await storage.ensure_schema(NAME, connection_limit=5, **identity)
        assert await storage.migrate(NAME, [CREATE_A], **identity) == ["0001_a.sql"]

        endpoint = storage.endpoint
        assert endpoint.sslmode == "verify-full"
        assert endpoint.authority == encrypted.authority.read_text()
        tenants = f"postgresql://{NAME}:owner@{endpoint.host}:{endpoint.port}/{NAME}?sslmode={endpoint.sslmode}"
        async with await psycopg.AsyncConnection.connect(tenants, sslrootcert=str(encrypted.authority)) as session:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert await (await session.execute(query)).fetchone() == (True,)

        await storage.release(NAME, role=f"{NAME}_id", tag=TAG)
        await storage.release(NAME, role=NAME, tag=TAG)
        assert await storage.inventory() == []
    finally:
        await storage.close()


async def test_a_server_that_cannot_be_verified_is_not_talked_to(encrypted: Encrypted, tmp_path: Path) -> None:
    another = Authority(tmp_path, "another").pair.certificate
    storage = PostgresStorage(make_conninfo(encrypted.dsn, sslrootcert=str(another)))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await storage.prepare()
