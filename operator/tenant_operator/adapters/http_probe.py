"""HTTP readiness probes."""

import asyncio
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from tenant_operator.adapters.failure_cause import root_cause
from tenant_operator.saga.errors import Rejected, Unavailable


def probing_client(ca_file: Path | None = None) -> httpx.AsyncClient:
    """A client fit for probing many hosts: it verifies certificates, and remembers neither cookies nor connections.

    `ca_file` (PEM) replaces the default authorities. The caller closes the client.
    """
    return httpx.AsyncClient(
        verify=True if ca_file is None else ssl.create_default_context(cafile=ca_file),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        # A kept connection would be asked again after its workload is gone, and one per tenant is too many.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )


class HttpProber:
    """Asks an URL for its status; whether that status is the wanted one is not its business."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def status(self, url: str, timeout_seconds: float) -> int:
        """The HTTP status of a GET without following redirects. No answer in time, no connection, a broken answer or an
        untrusted certificate: Unavailable with the cause. What is not an http(s) URL: Rejected."""
        target = _without_secrets(url)
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._client.stream("GET", url, follow_redirects=False, timeout=timeout_seconds) as response,
            ):
                # The body is not read: a probe must not download what it happens to meet.
                return response.status_code
        except httpx.UnsupportedProtocol as error:
            raise Rejected(f"GET {target}: not an http or https URL") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unavailable(f"GET {target}: no answer within {timeout_seconds:g} s") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"GET {target}: {root_cause(error)}") from error
        except Exception as error:  # what the libraries below make of an address that they did not expect
            raise Rejected(f"GET {target}: it cannot be asked: {_first(error)}") from error


def _without_secrets(url: str) -> str:
    """The URL without user information, query and fragment; Rejected if it is none."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except (httpx.InvalidURL, ValueError) as error:  # the latter from the name of an international host
        raise Rejected(f"the probe's URL is not one: {error}") from error


def _first(error: Exception) -> str:
    """The first of a group, in words; they repeat no secret, as a connection knows host and port only."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
