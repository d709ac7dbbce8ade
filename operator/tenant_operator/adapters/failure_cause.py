"""Why a connection failed, in words for people, whatever the libraries in between wrapped around it."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

# The event loop raises these without a number.
_NUMBERS: Final[dict[type[OSError], int]] = {
    BrokenPipeError: errno.EPIPE,
    ConnectionAbortedError: errno.ECONNABORTED,
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionResetError: errno.ECONNRESET,
}


def root_cause(error: BaseException) -> str:
    """A short phrase for what lies at the bottom of `error`: "connection refused", "certificate not trusted: ...".

    Made from the kind of the failure where it is known, so that no URL, address or credential slips into it.
    """
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate not trusted: {cause.verify_message}"
        if isinstance(cause, socket.gaierror):
            return "the host name does not resolve"
    for cause in reversed(chain):
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or 'handshake error'}".lower()
        if isinstance(cause, OSError) and (number := cause.errno or _NUMBERS.get(type(cause))):
            return os.strerror(number).lower()
    return str(error) or type(error).__name__


def is_untrusted_certificate(error: BaseException) -> bool:
    """Whether the other side answered but could not prove who it is."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from, members of groups included, each once."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
        waiting.extend(each for each in (current.__cause__, current.__context__) if each is not None)
