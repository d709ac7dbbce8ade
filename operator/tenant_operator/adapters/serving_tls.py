"""The TLS of a server: a certificate that is renewed without a restart, and whose clients may connect."""

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CertificateError(Exception):
    """The certificate of a server, its key, or the authority of its clients cannot be used; the message names files."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Who may connect: whoever has a certificate of `authority` (PEM), with one of `names` as its common name if any
    are given."""

    authority: Path
    names: Collection[str] = ()


class ServingTls:
    """`context` is the newest good one: it never changes once it is in use, so that half a renewal does no harm."""

    def __init__(self, certificate: Path, key: Path, clients: Clients | None = None) -> None:
        """Raises CertificateError."""
        self._certificate = certificate
        self._key = key
        self._clients = clients
        self._seen: object = None
        self.context: ssl.SSLContext
        self.renew()

    def renew(self) -> bool:
        """Take the files over if they changed; whether they did. Raises CertificateError, once for each change."""
        paths = [self._certificate, self._key, *([self._clients.authority] if self._clients else [])]
        try:
            # What a Secret's volume shows are links that are moved: the files behind them differ in their inodes.
            files = tuple((stat.st_ino, stat.st_mtime_ns) for stat in (path.stat() for path in paths))
            if files == self._seen:
                return False
            self._seen = files
            self.context = self._read()
        except (OSError, ssl.SSLError) as error:
            named = f"{self._certificate} with key {self._key}"
            named += f", for clients of {self._clients.authority}" if self._clients else ""
            raise CertificateError(f"the certificate of the webhooks cannot be used: {named}: {error}") from error
        return True

    def admits(self, peer: Mapping[str, Any] | None) -> bool:
        """Whether a client may go on whose certificate, as `ssl` tells of it, was found to be the authority's."""
        if self._clients is None or not self._clients.names:
            return True
        subject = (peer or {}).get("subject", ())
        return any(key == "commonName" and name in self._clients.names for part in subject for key, name in part)

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate, self._key)
        if self._clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._clients.authority)
        return context
