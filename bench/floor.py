"""The floor: tenants made with bare clients and nothing else. `python -m bench.floor WORK` prints, as JSON, the seconds
that each took."""

import asyncio
import base64
import json
import ssl
import sys
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

import aiohttp
import aiosmtplib
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from bench.work import COLLECTIONS, Piece, Work

_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
_LOOK_SECONDS: Final = 0.5
_SESSIONS: Final = 10


class Floor:
    """Makes tenants, so many at once, and remembers nothing."""

    def __init__(self, work: Work, session: aiohttp.ClientSession) -> None:
        self._work = work
        self._session = session
        self._turns = asyncio.Semaphore(work.concurrency)
        self._database = asyncio.Semaphore(_SESSIONS)

    async def all(self) -> list[float]:
        """The seconds that each tenant took, from the common start."""
        start = time.monotonic()
        return list(await asyncio.gather(*(self._one(piece, start) for piece in self._work.pieces)))

    async def _one(self, piece: Piece, start: float) -> float:
        async with self._turns:
            namespace, *others = piece.objects
            await self._apply(namespace)
            async with self._database:
                await self._store(piece)
            for each in others:
                await self._apply(each)
        while not await self._is_ready(piece):  # noqa: ASYNC110 (another program makes it ready)
            await asyncio.sleep(_LOOK_SECONDS)
        async with self._turns:
            await self._apply(piece.opening)
            took = time.monotonic() - start
            await self._send(piece)
        return took

    async def _apply(self, manifest: dict[str, Any]) -> None:
        metadata = manifest["metadata"]
        path = f"{COLLECTIONS[manifest['kind']].format(metadata.get('namespace'))}/{metadata['name']}"
        query = {"fieldManager": "floor", "force": "true"}
        async with self._session.patch(path, params=query, headers=_APPLY, data=json.dumps(manifest)) as answer:
            if answer.status >= 400:
                raise RuntimeError(f"{path}: {await answer.text()}")

    async def _is_ready(self, piece: Piece) -> bool:
        async with self._session.get(COLLECTIONS["Deployment"].format(piece.namespace)) as answer:
            found = (await answer.json())["items"]
        ready = [each for each in found if each.get("status", {}).get("availableReplicas")]
        return len(ready) == piece.deployments

    async def _store(self, piece: Piece) -> None:
        url = self._work.database_url
        owner, database, identity = Identifier(piece.owner), Identifier(piece.database), Identifier(piece.identity)
        password, limit = Literal(piece.password), Literal(piece.connection_limit)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            role = SQL("CREATE ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}")
            await admin.execute(role.format(owner, password, limit))
            await admin.execute(role.format(identity, password, limit))
            await admin.execute(SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
            await admin.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            await admin.execute(SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, identity))
        own = make_conninfo(url, dbname=piece.database, user=piece.owner, password=piece.password)
        async with await psycopg.AsyncConnection.connect(own, autocommit=True) as inside:
            await inside.execute("CREATE SCHEMA identity")
            await inside.execute(SQL("GRANT ALL ON SCHEMA identity TO {}").format(identity))
            for migration in self._work.migrations:
                await inside.execute(migration.encode())

    async def _send(self, piece: Piece) -> None:
        host, port = self._work.smtp
        async with aiosmtplib.SMTP(hostname=host, port=port, use_tls=False, start_tls=False) as server:
            for mail in piece.mails:
                message = EmailMessage()
                message["From"], message["To"], message["Subject"] = (
                    "floor@example.com",
                    mail["recipient"],
                    mail["subject"],
                )
                message.set_content(mail["text"])
                await server.send_message(message)


async def _main(file: Path) -> list[float]:
    work = Work.read(file)
    trusted = ssl.create_default_context(cadata=base64.b64decode(work.authority).decode())
    connector = aiohttp.TCPConnector(ssl=trusted, limit=work.concurrency)
    headers = {"Authorization": f"Bearer {work.token}"}
    async with aiohttp.ClientSession(work.server, connector=connector, headers=headers) as session:
        return await Floor(work, session).all()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_main(Path(sys.argv[1])))))
