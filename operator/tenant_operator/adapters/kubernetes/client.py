"""The connection to the API server: login, plain JSON requests, short retries when it is busy."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from pydantic_core import from_json

from tenant_operator.saga.errors import Outage, Unavailable

from .errors import bounded, failure

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PAGE: Final = 100
"""Objects of a list that are read at once: parsed as a whole, thousands of them would be what the memory is made of."""

_MAX_RETRIES: Final = 3
_LONGEST_PAUSE_SECONDS: Final = 2.0
_DEFAULT_KUBECONFIG: Final = "~/.kube/config"
_USER_AGENT: Final = "tenant-operator"


class LoginError(Exception):
    """There is no usable way to log in to a cluster."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server.

    Without `kubeconfig`, the files that KUBECONFIG names are used, else the pod's service account, else
    `~/.kube/config`. `connections` bounds the requests in flight; a request waits for a free one without a limit
    and then `timeout_seconds` for the connection and for each part of the answer.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    connections: int = 100
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The status and the undecoded content of an answer."""

    status: int
    content: bytes

    def json(self) -> Any:
        """The content, decoded."""
        return from_json(self.content)


async def login(connection: Connection) -> Configuration:
    """The address and the credentials of the cluster. Raises LoginError."""
    configuration = Configuration(connection_pool_maxsize=connection.connections)
    try:
        await _load(connection, configuration)
    except ConfigException as error:
        raise LoginError(str(error)) from error
    # Left to the session, looking for proxies (and a netrc) in the environment doubles the cost of every request.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.proxy = configuration.proxy or _proxy_for(configuration.host)
    return configuration


async def _load(connection: Connection, configuration: Configuration) -> None:
    named = str(connection.kubeconfig or os.environ.get("KUBECONFIG") or "")
    if not named and os.environ.get("KUBERNETES_SERVICE_HOST"):
        # Installs a hook that reads the service account's token again once a minute: tokens are rotated.
        load_incluster_config(configuration)
        return
    files = named or _DEFAULT_KUBECONFIG
    if not any(_exists(file) for file in files.split(os.pathsep)):
        raise LoginError(f"no kubeconfig at {files}, and this is not a pod with a service account")
    await load_kube_config(files, context=connection.context, client_configuration=configuration, persist_config=False)


class KubernetesClient:
    """Requests to one API server over one pool of connections.

    Every request of this product is safe to repeat (applied, guarded by a resourceVersion, or named), so one that was
    turned away or whose connection broke is repeated at once, a few times.
    """

    def __init__(
        self,
        configuration: Configuration,
        connection: Connection,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = ApiClient(configuration)
        self._configuration = configuration
        self._connection = connection
        self._sleep = sleep
        self._renewing = asyncio.Lock()
        seconds = connection.timeout_seconds
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)

    @classmethod
    async def connect(cls, connection: Connection) -> Self:
        """Log in; the first request opens the first connection. Raises LoginError."""
        return cls(await login(connection), connection)

    @property
    def server(self) -> str:
        """The address of the API server."""
        return str(self._configuration.host)

    def session(self, observe: ClientMiddlewareType) -> aiohttp.ClientSession:
        """A session of its own for requests that somebody else makes: the same trust and credentials, whose renewal
        included, and connections without a bound. `observe` sees each request and its answer. The caller closes it."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._api.rest_client.ssl_context),
            headers={"User-Agent": _USER_AGENT},
            proxy=self._configuration.proxy,
            trust_env=False,
            middlewares=(observe, self._authorize),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        subject: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        expected: Collection[int] = (),
        confidential: bool = False,
    ) -> Answer:
        """The answer, if it is a success or its status is among `expected`; anything else raises an ActivityError.

        `subject` names the object in errors; `confidential` keeps its content out of them.
        """
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": content_type, "Accept": accept, "User-Agent": _USER_AGENT}
        renewed = False
        for retries_left in range(_MAX_RETRIES, -1, -1):
            token = await self._token()
            try:
                answer, pause = await self._send(method, url, _authorized(headers, token), body)
            except (aiohttp.ClientConnectorError, TimeoutError) as error:
                raise _unreachable(subject, error) from error
            except (aiohttp.ClientError, OSError) as error:
                # The connection broke; most often an idle one that the server closed just as it was used again.
                if retries_left:
                    continue
                raise _unreachable(subject, error) from error
            if answer.status < 400 or answer.status in expected:
                return answer
            if answer.status == 401 and not renewed:
                renewed = True
                await self._renew_credentials(token)
                continue
            if pause is None or not retries_left:
                break
            await self._sleep(pause)
        raise failure(answer.status, answer.content, subject, confidential=confidential)

    async def _send(self, method: str, url: str, headers: dict[str, str], body: object) -> tuple[Answer, float | None]:
        """One exchange: the answer, and the pause after which the server wants to be asked again."""
        response = await self._api.rest_client.request(
            method, url, headers=headers, body=body, _request_timeout=self._timeout
        )
        answer = Answer(response.status, await response.read())
        return answer, _pause(answer.status, response.headers.get("Retry-After"))

    async def _authorize(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        if self._configuration.tls_server_name:
            request.server_hostname = self._configuration.tls_server_name
        try:
            token = await self._token()
            request.headers.update(_authorized({}, token))
            answer = await handler(request)
            if answer.status != 401:
                return answer
            answer.release()
            await self._renew_credentials(token)
            request.headers.update(_authorized({}, await self._token()))
        except Unavailable as error:
            raise aiohttp.ClientConnectionError(error.message) from error
        return await handler(request)

    async def _token(self) -> str | None:
        try:
            return await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except (ConfigException, OSError) as error:
            # Looked at in the middle of a rotation.
            raise Outage(f"the service account's token cannot be read: {error}") from error

    async def _renew_credentials(self, refused: str | None) -> None:
        """Log in again, unless another request has done so meanwhile; if that fails, the next try says so."""
        async with self._renewing:
            if await self._token() != refused:
                return
            try:
                fresh = await login(self._connection)
            except LoginError:
                return
            self._configuration.api_key = fresh.api_key
            self._configuration.refresh_api_key_hook = fresh.refresh_api_key_hook


def _proxy_for(server: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY say to use for the API server."""
    address = urlsplit(server)
    return None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)


def _exists(kubeconfig: str) -> bool:
    return Path(kubeconfig).expanduser().is_file()


def _authorized(headers: dict[str, str], token: str | None) -> dict[str, str]:
    return {**headers, "Authorization": token} if token else dict(headers)


def _pause(status: int, retry_after: str | None) -> float | None:
    """Seconds to wait before the same request is worth repeating, None if it is not."""
    if status != 429 and (status < 500 or retry_after is None):
        return None
    try:
        seconds = float(retry_after or 1)
    except ValueError:
        seconds = 1.0
    # Spread, or all that were turned away together come back together.
    return min(seconds, _LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311


def _unreachable(subject: str, error: Exception) -> Outage:
    cause = str(error) or type(error).__name__
    return Outage(bounded(f"{subject}: the API server did not answer: {cause}"))
