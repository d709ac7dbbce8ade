"""Emails through the HTTP API of a provider."""

import asyncio
from typing import Any, Final

import httpx
from pydantic import SecretStr

from tenant_operator.adapters.failure_cause import is_untrusted_certificate, root_cause
from tenant_operator.ports import Mail
from tenant_operator.saga.errors import ActivityError, Outage, Rejected
from tenant_operator.text import cut

_BUSY: Final = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS})
_AWAY: Final = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})
_EXCERPT_BYTES: Final = 1024
_EXCERPT_LENGTH: Final = 200


class HttpMailer:
    """Posts each mail as JSON to a provider.

    The request carries `Authorization: Bearer <token>` and `Idempotency-Key: <key of the mail>`: the provider is
    trusted to accept a key it has seen without sending again. Its body (`reply_to` only if there is one):

        {"from": "Platform <no-reply@tenants.example>", "to": ["admin@bank.example"],
         "reply_to": "support@tenants.example", "subject": "...", "text": "...", "html": "...",
         "headers": {"Auto-Submitted": "auto-generated"}}

    Any 2xx means that the provider took responsibility. 408, 425, 429, 5xx, lost connections and timeouts raise
    Outage (`Retry-After` is not read: the retry policy of the activity decides); everything else, redirects and an
    untrusted certificate included, raises Rejected with the beginning of the reply. `timeout` is in seconds and spans
    the whole exchange. A token that no header can carry raises ValueError at once.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr,
        *,
        sender: str,
        client: httpx.AsyncClient,
        timeout: float = 20.0,
        reply_to: str | None = None,
    ) -> None:
        if not (token.get_secret_value().isascii() and token.get_secret_value().isprintable()):
            # Told here without the value: what the HTTP library says later would quote it.
            raise ValueError("the provider's token does not fit into a header: does it end in a line break?")
        self._url = httpx.URL(url)
        self._token = token
        self._sender = sender
        self._client = client
        self._timeout = timeout
        self._reply_to = reply_to

    async def send(self, mail: Mail) -> None:
        """Returns once the provider has taken responsibility for the mail."""
        # A provider turns these into headers of the mail and of the request; a line break would start another one.
        if any(not each.isprintable() for each in (mail.key, mail.recipient, mail.subject)):
            raise Rejected(f"mail {mail.key!r} has a header that cannot be written: line break or control character")
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    "POST",
                    self._url,
                    json=self._body(mail),
                    headers={"Authorization": f"Bearer {self._token.get_secret_value()}", "Idempotency-Key": mail.key},
                    follow_redirects=False,
                    timeout=self._timeout,
                ) as response,
            ):
                if response.is_success:
                    return
                excerpt = await self._excerpt(response)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise self._failure(error) from error
        heals = response.status_code in _BUSY or response.is_server_error
        raise (Outage if heals else Rejected)(f"{self.server} answered {response.status_code}: {excerpt}")

    async def check(self) -> None:
        """Returns if the provider is in service, whatever it answers: it is asked without the token, so nothing is
        sent."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.head(self._url, follow_redirects=False, timeout=self._timeout)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise self._failure(error) from error
        if response.status_code in _BUSY or response.status_code in _AWAY:
            raise Outage(f"{self.server} answered {response.status_code}")

    @property
    def server(self) -> str:
        """The provider without the path and the query, which may be secret."""
        return f"mail provider {self._url.netloc.decode('ascii')}"

    def _body(self, mail: Mail) -> dict[str, Any]:
        body = {
            "from": self._sender,
            "to": [mail.recipient],
            "subject": mail.subject,
            "text": mail.text,
            "html": mail.html,
            "headers": {"Auto-Submitted": "auto-generated"},
        }
        return body if self._reply_to is None else {**body, "reply_to": self._reply_to}

    async def _excerpt(self, response: httpx.Response) -> str:
        """The beginning of the reply as one line, without the token if the provider quotes it."""
        start = b""
        async for chunk in response.aiter_bytes(_EXCERPT_BYTES):
            start += chunk
            if len(start) >= _EXCERPT_BYTES:
                break
        line = " ".join(start[:_EXCERPT_BYTES].decode("utf-8", "replace").split())
        line = line.replace(self._token.get_secret_value(), "***")
        return cut(line, _EXCERPT_LENGTH) or response.reason_phrase or "no explanation"

    def _failure(self, error: Exception) -> ActivityError:
        """What an exchange without an answer means."""
        match error:
            case TimeoutError() | httpx.TimeoutException():
                return Outage(f"{self.server} did not answer within {self._timeout:g} s")
            case _ if is_untrusted_certificate(error):
                return Rejected(f"{self.server}: {root_cause(error)}")
            case httpx.UnsupportedProtocol() | ValueError():
                return Rejected(f"{self.server}: {error}")
            case _:
                return Outage(f"{self.server}: {root_cause(error)}")
