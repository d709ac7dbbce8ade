"""Thousands of tenants that serve: what a start of the operator among them costs, what they cost at rest, and one more.

They are stored as a provisioning leaves them, by an administrator: making them would take hours. The cluster's own
controllers are stopped meanwhile, which would make pods for all of them.
"""

import asyncio
import json
import os
import signal
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import uvloop
from psycopg.conninfo import conninfo_to_dict

from bench import measure, work
from bench.report import Crowd
from devcluster import platform
from devcluster.cluster import DevCluster, Environment
from devcluster.tenants import condition
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Endpoint, Manifest
from tenant_operator.provisioning import claims
from tenant_operator.provisioning.contents import contents, digest
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options

_CONTROLLERS: Final = ("kube-controller-manager", "kube-scheduler", "kwok")
_CONNECTIONS: Final = 32
_REST_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 600.0
_OPTIONS: Final = Options(base_domain=work.BASE_DOMAIN)


class Stage:
    """On a cluster where one tenant serves, made by the operator: the model of all others."""

    def __init__(self, cluster: DevCluster, environment: Environment, kubeconfig: dict[str, Any]) -> None:
        self._cluster = cluster
        self._environment = environment
        (of,), (user,) = kubeconfig["clusters"], kubeconfig["users"]
        self._server, self._token = of["cluster"]["server"], user["user"]["token"]
        database = conninfo_to_dict(environment.database_url)
        self._endpoint = Endpoint(str(database["host"]), int(str(database["port"])))

    def measure(self, size: int, model: str, settings: Mapping[str, str]) -> Crowd:
        """Store `size` tenants like the one called `model`, and start the operator among them."""
        self._cluster.end("operator")
        platform.remove_webhook(self._environment)
        with _stopped([self._cluster.pids[name] for name in _CONTROLLERS]):
            uvloop.run(self._store(size, model))
            begin = time.monotonic()
            platform.start_operator(self._cluster, self._environment, settings)
            ready = time.monotonic() - begin
            settled = self._until_at_rest() - begin
            mebibytes = measure.memory_mebibytes(self._cluster.pids["operator"])
            writes, spent = self._written(), self._spent()
            time.sleep(_REST_SECONDS)
            writes, spent = self._written() - writes, self._spent() - spent
            more = asyncio.run(self._one_more())
        return Crowd(
            size, round(ready, 1), round(settled, 1), round(mebibytes), writes, round(spent * 1000), round(more, 2)
        )

    def _spent(self) -> float:
        return measure.cpu_seconds({"operator": self._cluster.pids["operator"]})["operator"]

    def _until_at_rest(self) -> float:
        """When it began to do nothing worth the name."""
        before, since = self._spent(), time.monotonic()
        while True:
            time.sleep(2.0)
            spent = self._spent()
            if spent - before < 0.1:
                return since
            before, since = spent, time.monotonic()

    def _written(self) -> int:
        """Writes of a status since the API server was started, whoever's."""
        metrics = platform.kubectl(self._environment, "get", "--raw", "/metrics")
        found = [line for line in metrics.splitlines() if line.startswith("apiserver_request_total{")]
        ours = [line for line in found if 'group="intelliauth.io"' in line and 'subresource="status"' in line]
        return sum(int(float(line.rpartition(" ")[2])) for line in ours)

    def _session(self) -> aiohttp.ClientSession:
        trusted = ssl.create_default_context(cafile=str(platform.client_authority(self._environment)))
        return aiohttp.ClientSession(
            self._server,
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=trusted),
            headers={"Authorization": f"Bearer {self._token}"},
        )

    async def _store(self, size: int, model: str) -> None:
        async with self._session() as client:
            plan = Plan.model_validate(await _ask(client, "GET", f"/apis/intelliauth.io/v1alpha1/plans/{work.PLAN}"))
            original = Tenant.model_validate(await _ask(client, "GET", f"{work.TENANTS}/{model}"))
            if original.status.workloads_hash != self._digest(_names(original), plan):
                raise RuntimeError("the operator has other settings than the benchmark thinks: it would begin rollouts")
            turns = asyncio.Semaphore(_CONNECTIONS)

            async def one(number: int) -> None:
                async with turns:
                    await self._store_one(client, f"crowd-{number:05d}", original, plan)

            await asyncio.gather(*(one(number) for number in range(size)))

    async def _store_one(self, client: aiohttp.ClientSession, name: str, model: Tenant, plan: Plan) -> None:
        made = await _ask(client, "POST", work.TENANTS, _manifest(name, model))
        tenant = Tenant.model_validate(made)
        names, old = _names(tenant), model.metadata.uid
        text = json.dumps(model.to_wire()["status"])
        for this, that in (
            (old, names.uid),
            (old.replace("-", ""), names.uid.replace("-", "")),
            (model.metadata.name, name),
        ):
            text = text.replace(this, that)
        status = {**json.loads(text), "workloadsHash": self._digest(names, plan), "outbox": []}
        await _ask(client, "PUT", f"{work.TENANTS}/{name}/status", {**made, "status": status})
        tenant = tenant.model_copy(update={"status": tenant.status.model_validate(status)})
        whole = contents(names, plan, _OPTIONS, self._endpoint)
        namespace, *bounds = whole.namespace
        # The quota last: nothing counts it.
        for each in (
            claims.marked(namespace, tenant, served=True),
            *whole.policies,
            *whole.workloads,
            *whole.route,
            *bounds,
        ):
            path = work.COLLECTIONS[each["kind"]].format(names.namespace)
            await _ask(client, "POST", f"{path}?fieldManager=tenant-operator", each)

    async def _one_more(self) -> float:
        """Have one more made; this program is all controllers that it needs."""
        name, begin = "one-more", time.monotonic()
        async with self._session() as client:
            made = await _ask(client, "POST", work.TENANTS, work.manifest(name))
            namespace = _names(Tenant.model_validate(made)).namespace
            deployments = work.COLLECTIONS["Deployment"].format(namespace)
            while time.monotonic() - begin < _PATIENCE_SECONDS:
                for each in (await _ask(client, "GET", deployments))["items"]:
                    if not each.get("status", {}).get("availableReplicas"):
                        await _complete(client, f"{deployments}/{each['metadata']['name']}/status", each)
                if condition(await _ask(client, "GET", f"{work.TENANTS}/{name}"), "Ready").get("status") == "True":
                    return time.monotonic() - begin
                await asyncio.sleep(0.1)
        raise RuntimeError(f"one more tenant does not serve after {_PATIENCE_SECONDS:g} s")

    def _digest(self, names: Names, plan: Plan) -> str:
        return digest(names, plan, _OPTIONS, self._endpoint)


def _names(tenant: Tenant) -> Names:
    organization = tenant.spec.organization
    return Names(tenant.slug, organization, organization, tenant.metadata.uid, _OPTIONS.base_domain)


def _manifest(name: str, model: Tenant) -> Manifest:
    """A Tenant like the model, with its finalizer."""
    made = work.manifest(name)
    return {**made, "metadata": {**made["metadata"], "finalizers": list(model.metadata.finalizers)}}


async def _complete(client: aiohttp.ClientSession, path: str, deployment: Manifest) -> None:
    number, generation = deployment["spec"]["replicas"], deployment["metadata"]["generation"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), number)
    conditions = [{"type": "Available", "status": "True", "reason": "Stopped", "message": "the bench says so"}]
    status = {"observedGeneration": generation, **counts, "conditions": conditions}
    await _ask(client, "PATCH", path, {"status": status})


async def _ask(client: aiohttp.ClientSession, method: str, path: str, body: Manifest | None = None) -> Any:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    content = None if body is None else json.dumps(body)
    async with client.request(method, path, data=content, headers={"Content-Type": kind}) as answer:
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
        return await answer.json()


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
