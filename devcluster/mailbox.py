"""An SMTP receiver that keeps every mail as a file, and the reader of those files.

Run as ``python -m devcluster.mailbox FOLDER HOST PORT``.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import itertools
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope


class _Keeper:
    """Keeps the mails, numbered in the order of their arrival."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        existing = sorted(folder.glob("*.eml"))
        self._numbers = itertools.count(int(existing[-1].stem) + 1 if existing else 1)

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep one mail; the sender hears "accepted" only when it can be read back."""
        content = envelope.content
        if not isinstance(content, bytes):
            return "451 no content"
        headers = [f"X-Envelope-From: {envelope.mail_from}"]
        headers += [f"X-Envelope-To: {recipient}" for recipient in envelope.rcpt_tos]
        kept = self._folder / f"{next(self._numbers):08d}.eml"
        unfinished = kept.with_suffix(".partial")
        unfinished.write_bytes("\r\n".join(headers).encode() + b"\r\n" + content)
        unfinished.rename(kept)
        return "250 OK"


async def receive(folder: Path, host: str, port: int) -> None:
    """Receive mails until cancelled; ``folder`` must exist."""
    keeper = _Keeper(folder)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(keeper, enable_SMTPUTF8=True, hostname="localhost", loop=loop), host, port
    )
    async with server:
        await server.serve_forever()


def read_mails(folder: Path) -> list[EmailMessage]:
    """The mails received so far, oldest first.

    The envelope is in the headers ``X-Envelope-From`` and ``X-Envelope-To``, one of the latter per recipient.
    """
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for path in sorted(folder.glob("*.eml"))
    ]


if __name__ == "__main__":
    asyncio.run(receive(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
