"""What a network peer without credentials can do to a TLS server: from threads, until told to stop."""

import json
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tenant_operator.api.names import API_VERSION
from tests.e2e import catalog

_SECONDS = 10.0


@dataclass(frozen=True)
class Target:
    """A server on this machine, whose certificate nobody checks."""

    port: int

    def connect(self) -> socket.socket:
        """TCP alone."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS)

    def handshake(self, certificate: tuple[str, str] | None = None) -> ssl.SSLSocket:
        """A connection on which HTTP can be spoken."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context.wrap_socket(self.connect(), server_hostname="tenant-operator")

    def ask(self, path: str, body: bytes, *, method: str = "POST", certificate: tuple[str, str] | None = None) -> bytes:
        """All that comes back to a request, headers included; empty if it is nothing."""
        line = f"{method} {path} HTTP/1.1\r\nHost: tenant-operator\r\nConnection: close\r\n"
        head = f"{line}Content-Length: {len(body)}\r\n\r\n".encode()
        answer = b""
        with suppress(OSError), self.handshake(certificate) as connection:
            with suppress(OSError):  # it may not want to read all of it, and has answered before
                connection.sendall(head + body)
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def a_review(operation: str, *, user: str = "system:admin", **spec: Any) -> bytes:
    """A question as the API server would ask it, about users and tenants that the attacker makes up."""
    metadata = {"name": "probe", "namespace": catalog.NAMESPACE, "uid": "00000000-0000-0000-0000-000000000000"}
    wanted = {"organization": catalog.ORGANIZATION, "plan": "small", "admin": {"email": "a@b.example"}, **spec}
    tenant = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": metadata, "spec": wanted}
    request = {
        "uid": "11111111-1111-1111-1111-111111111111",
        "operation": operation,
        "name": "probe",
        "namespace": catalog.NAMESPACE,
        "userInfo": {"username": user, "groups": ["system:masters"]},
        "object": tenant,
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(review).encode()


Attack = Callable[[Target, list[socket.socket]], None]
"""One step of an attack; connections that it leaves open go into the list."""


def half_open(target: Target, held: list[socket.socket]) -> None:
    """A connection that never begins its handshake, one that never asks, and one that never ends its question."""
    held.append(target.connect())
    held.append(target.handshake())
    slow = target.handshake()
    held.append(slow)
    slow.sendall(b"POST /check-tenant HTTP/1.1\r\nHost: tenant-operator\r\nContent-Length: 100\r\n")
    held.append(target.connect())
    held[-1].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello


def oversized(target: Target, held: list[socket.socket]) -> None:
    """A body of 8 MiB, and the promise of one of 100 GB."""
    target.ask("/check-tenant", b"x" * (8 << 20))
    connection = target.handshake()
    held.append(connection)
    connection.sendall(
        b"POST /check-tenant HTTP/1.1\r\nHost: tenant-operator\r\nContent-Length: 100000000000\r\n\r\n" + b"x" * 65536
    )


def malformed(target: Target, held: list[socket.socket]) -> None:
    """What is no HTTP, no JSON, or nested a million times."""
    for body in (b"[" * 1_000_000, b'{"a":' * 200_000, b"\xff" * 1000, b""):
        target.ask("/check-tenant", body)
    with suppress(OSError), target.handshake() as connection:
        connection.sendall(random.randbytes(4096) + b"\r\n\r\n")
        connection.recv(1)
    with suppress(OSError), target.connect() as plain:
        plain.sendall(b"POST /check-tenant HTTP/1.1\r\nHost: tenant-operator\r\n\r\n")
        plain.recv(1)


@contextmanager
def siege(target: Target, attacks: Sequence[Attack], *, most: int = 700) -> Iterator[Callable[[], int]]:
    """Have each attack made again and again, until the block ends; at most so many connections are held open, the
    oldest is let go for a new one. Yields how often an attack was made."""
    over = threading.Event()
    made = [0] * len(attacks)

    def repeat(place: int) -> None:
        held: list[socket.socket] = []
        try:
            while not over.is_set():
                with suppress(OSError):
                    attacks[place](target, held)
                made[place] += 1
                while len(held) > most // len(attacks):
                    held.pop(0).close()
        finally:
            for each in held:
                each.close()

    threads = [threading.Thread(target=repeat, args=(place,)) for place in range(len(attacks))]
    for thread in threads:
        thread.start()
    try:
        yield lambda: min(made)
    finally:
        over.set()
        for thread in threads:
            thread.join()
