"""`python -m bench`: the floor and the operator in turn, on a development cluster of their own."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from bench import measure, work
from bench.crowd import Stage
from bench.report import FLOOR, OPERATOR, Burst, Crowd, Report, machine
from devcluster import platform
from devcluster.cluster import DevCluster, Environment
from devcluster.tenants import Tenant, TenantWatch, condition, has_settled

CONCURRENCY: Final = 64
"""Of both: it is the operator's default."""

_ACCOUNT: Final = "floor"
_USERS: Final = {
    FLOOR: f"system:serviceaccount:default:{_ACCOUNT}",
    OPERATOR: f"system:serviceaccount:{platform.OPERATOR}:{platform.OPERATOR}",
}
_PATIENCE_SECONDS: Final = 1800.0
_SETTINGS: Final = {"TENANT_OPERATOR_CONCURRENCY": str(CONCURRENCY), "TENANT_OPERATOR_LOG_LEVEL": "warning"}
_LEAST_PER_TENANT: Final = 0.5
"""Requests that are made for fewer than every second tenant are not told."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Bench:
    """The cluster, and what is done on it."""

    def __init__(self, cluster: DevCluster, environment: Environment, kubeconfig: dict[str, Any], folder: Path) -> None:
        self._cluster = cluster
        self._environment = environment
        self._kubeconfig = kubeconfig
        self._folder = folder

    def floor(self, size: int, number: int) -> Burst:
        """A burst by the floor, in a process of its own."""
        names = [f"floor-{size}-{number}-{each}" for each in range(size)]
        file = self._folder / "work.json"
        work.prepare(self._environment, self._kubeconfig, names, concurrency=CONCURRENCY).write(file)
        asked, cpu = self._audit_log.stat().st_size, self._spent()
        command = [sys.executable, "-m", "bench.floor", str(file)]
        before = measure.cpu_of_ended_children()
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        own = measure.cpu_of_ended_children() - before
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return self._burst(FLOOR, size, number, json.loads(done.stdout), {**cpu, FLOOR: -own}, asked)

    def operator(self, size: int, number: int) -> Burst:
        """A burst by the operator: all Tenants are created at once, and watched."""
        names = [f"tenant-{size}-{number}-{each}" for each in range(size)]
        asked, cpu = self._audit_log.stat().st_size, self._spent()
        seen: dict[str, Tenant] = {}
        seconds: dict[str, float] = {}
        with TenantWatch(self._environment) as watch:
            start = time.monotonic()
            asyncio.run(self._create(names))
            while not all(name in seconds and has_settled(seen[name]) for name in names):
                if time.monotonic() - start > _PATIENCE_SECONDS:
                    raise RuntimeError(f"{size - len(seconds)} tenants do not serve after {_PATIENCE_SECONDS:g} s")
                for tenant in watch.changes(1.0):
                    name = tenant["metadata"]["name"]
                    seen[name] = tenant
                    if name not in seconds and condition(tenant, "Ready").get("status") == "True":
                        seconds[name] = time.monotonic() - start
        burst = self._burst(OPERATOR, size, number, [seconds[name] for name in names], cpu, asked)
        size_of_one = len(json.dumps(seen[names[0]], separators=(",", ":")))
        memory = measure.memory_mebibytes(self._cluster.pids["operator"])
        return Burst(burst.by, size, number, burst.seconds, burst.cpu, burst.requests, size_of_one, round(memory, 1))

    def crowd(self, size: int) -> Crowd:
        """A start of the operator among so many tenants that serve."""
        self.operator(1, 0)
        return Stage(self._cluster, self._environment, self._kubeconfig).measure(size, "tenant-1-0-0", _SETTINGS)

    async def _create(self, names: list[str]) -> None:
        (cluster,), (user,) = self._kubeconfig["clusters"], self._kubeconfig["users"]
        trusted = platform.client_authority(self._environment)
        headers = {"Authorization": f"Bearer {user['user']['token']}"}
        limits = httpx.Limits(max_connections=CONCURRENCY)
        async with httpx.AsyncClient(
            base_url=cluster["cluster"]["server"], verify=str(trusted), headers=headers, limits=limits, timeout=60.0
        ) as client:
            answers = await asyncio.gather(*(client.post(work.TENANTS, json=work.manifest(name)) for name in names))
        for answer in answers:
            answer.raise_for_status()

    def _burst(self, by: str, size: int, number: int, seconds: list[float], cpu: dict[str, float], asked: int) -> Burst:
        """`asked`: what the audit log had at the beginning, in bytes."""
        spent, requests = self._spent(), self._requests(_USERS[by], since=asked)
        per_tenant = {name: 1000 * (spent.get(name, 0.0) - before) / size for name, before in cpu.items()}
        told = {name: round(value, 1) for name, value in per_tenant.items() if value >= 1}
        made = {
            what: (round(each.number / size, 1), round(each.milliseconds / each.number, 1))
            for what, each in requests.items()
            if each.number / size >= _LEAST_PER_TENANT
        }
        return Burst(by, size, number, seconds, told, made)

    def _spent(self) -> dict[str, float]:
        return measure.cpu_seconds(self._cluster.pids)

    @property
    def _audit_log(self) -> Path:
        return self._environment.state / "logs" / "requests.jsonl"

    def _requests(self, user: str, *, since: int) -> dict[str, measure.Asked]:
        """What a user has asked of the API server since its audit log had so many bytes."""
        with self._audit_log.open("rb") as log:
            log.seek(since)
            return measure.requests((line.decode() for line in log), user)


@contextmanager
def stage(state: Path) -> Iterator[Bench]:
    """A clean cluster with the operator, the samples' organisation and plans, and an account for the floor."""
    cluster = DevCluster(state, audited=list(_USERS.values()))
    with cluster as environment:
        platform.install(environment)
        platform.start_operator(cluster, environment, _SETTINGS)
        platform.apply(environment, *platform.CATALOG)
        change = json.dumps({"spec": work.INSTANTLY})
        platform.kubectl(environment, "patch", "plan", work.PLAN, "--type=merge", f"--patch={change}")
        platform.kubectl(environment, "wait", "--for=condition=Ready", "organizations", "--all", "--timeout=60s")
        place = f"--serviceaccount=default:{_ACCOUNT}"
        platform.kubectl(environment, "create", "serviceaccount", _ACCOUNT, "--namespace=default")
        platform.kubectl(environment, "create", "clusterrolebinding", _ACCOUNT, "--clusterrole=cluster-admin", place)
        token = platform.kubectl(environment, "create", "token", _ACCOUNT, "--namespace=default", "--duration=8h")
        config = json.loads(platform.kubectl(environment, "config", "view", "--minify", "--flatten", "--output=json"))
        config["users"] = [{"name": _ACCOUNT, "user": {"token": token.strip()}}]
        yield Bench(cluster, environment, config, state)


@app.command()
def main(
    bursts: Annotated[str, typer.Option(help="Sizes of the bursts, with commas between them.")] = "1,60",
    rounds: Annotated[int, typer.Option(help="Rounds of each size; who begins alternates.")] = 3,
    serving: Annotated[int, typer.Option(help="Tenants that serve, among which the operator is started; 0: none.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="A file for all that was measured.")] = None,
) -> None:
    """Print tenants a minute, times, CPU by program and requests, of the floor and of the operator."""
    sizes = [int(size) for size in bursts.split(",") if size]
    report = Report(machine())
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder) / "cluster") as bench:
        bench.floor(1, 0), bench.operator(1, 0)  # what is done once only is done
        for size in sizes:
            for number in range(1, rounds + 1):
                pair = [bench.floor, bench.operator]
                for burst in pair if number % 2 == 0 else reversed(pair):
                    report.bursts.append(burst(size, number))
                    typer.echo(f"{report.bursts[-1].by} {size}: {report.bursts[-1].per_minute:.0f} a minute", err=True)
    if serving:
        with tempfile.TemporaryDirectory() as folder, stage(Path(folder) / "cluster") as bench:
            report.crowds.append(bench.crowd(serving))
    if json_file is not None:
        json_file.write_text(report.json() + "\n", encoding="utf-8")
    typer.echo(report.table())


if __name__ == "__main__":
    app()
