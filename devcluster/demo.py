"""The product at work on a real control plane: tenants are provisioned, one fails and is rolled back.

Run as ``python -m devcluster.demo``; ``--once`` needs nobody: it checks what it shows, and its exit code tells.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from devcluster import binaries, platform, postgres
from devcluster.children import ChildFailedError
from devcluster.cluster import DevCluster, Environment, supervisor_pid
from devcluster.interruption import ignore_interrupts, raise_on_interrupts
from devcluster.mailbox import read_mails
from devcluster.platform import SAMPLES, Operator, PlatformError
from devcluster.tenants import Tenant, TenantWatch, condition, has_settled, key, state
from devcluster.timeline import view_of
from devcluster.verification import Finding, Inspection

_TENANTS = SAMPLES / "tenants.yaml"
_FAILING = SAMPLES / "failing"
_FAILED_ACTIVITY = "wait-ready"
_FAILURE_CAUSE = "CrashLoopBackOff"
_SETTLE_SECONDS = 180.0
_REFRESH_SECONDS = 0.2
_CHECK_SECONDS = 0.5
_LOG_TAIL = 20

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Stage:
    """The running platform that the demo plays on."""

    cluster: DevCluster
    environment: Environment
    operator: Operator
    console: Console


@app.command()
def main(
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Provision, check, let one tenant fail, check, and end; exit code 0 if all is well."
        ),
    ] = False,
    state: Annotated[Path, typer.Option(help="The folder of the demo's own cluster; deleted at the end.")] = Path(
        ".devcluster/demo"
    ),
) -> None:
    """Provision the sample tenants on a cluster of the demo's own, and watch."""
    console = Console(highlight=False)
    raise_on_interrupts()
    try:
        with _stage(console, state) as stage:
            is_well = _once(stage) if once else _show(stage)
            if not is_well:
                _show_log(stage)
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left behind.")
        raise typer.Exit(130 if once else 0) from None
    except (binaries.BuildError, ChildFailedError, PlatformError) as error:
        console.print(f"demo: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if not is_well:
        raise typer.Exit(1)


@contextmanager
def _stage(console: Console, state: Path) -> Iterator[Stage]:
    """The platform in a new cluster; everything is gone afterwards, whatever happens."""
    if supervisor_pid(state) is not None:
        raise PlatformError(f"a demo is already running in {state.absolute()}: end it, or choose another --state")
    _delete(state)
    cluster = DevCluster(state, report=lambda line: console.print(f"  {line}", markup=False, soft_wrap=True))
    try:
        _headline(console, "Starting a Kubernetes control plane, PostgreSQL, a mail receiver and the operator")
        started = time.monotonic()
        environment = cluster.start()
        platform.install(environment)
        operator = platform.start_operator(cluster, environment)
        console.print(f"  ready after {time.monotonic() - started:.1f} s")
        yield Stage(cluster, environment, operator, console)
    finally:
        ignore_interrupts()
        cluster.stop()
        _delete(state)


def _delete(state: Path) -> None:
    # The lock says that the folder is a cluster's and not something else that --state names by mistake.
    if (state / "lock").exists():
        shutil.rmtree(state)


def _once(stage: Stage) -> bool:
    provisioned = _provision(stage)
    _show_mails(stage)
    findings = []
    for tenant in provisioned:
        findings += _judge(stage, tenant, Inspection(stage.environment, stage.operator, tenant).provisioned())
    (doomed,) = _fail(stage)
    inspection = Inspection(stage.environment, stage.operator, doomed)
    findings += _judge(stage, doomed, inspection.rolled_back(_FAILED_ACTIVITY, _FAILURE_CAUSE))
    wrong = [finding for finding in findings if finding.problem]
    _headline(stage.console, f"{len(findings) - len(wrong)} of {len(findings)} checks hold")
    return not wrong


def _show(stage: Stage) -> bool:
    provisioned = _provision(stage)
    first = provisioned[0]
    if state(first) == "Active":
        _headline(stage.console, f"{key(first)} serves at {first['status']['url']}")
        _show_mails(stage)
    else:
        _headline(stage.console, f"{key(first)} is {state(first)}: {condition(first, 'Ready').get('message')}")
    _suggest(stage)
    while True:
        time.sleep(_CHECK_SECONDS)
        stage.cluster.check()


def _provision(stage: Stage) -> list[Tenant]:
    names = _tenants_in(_TENANTS)
    _headline(stage.console, f"Applying the sample organisation, plans and {len(names)} tenants")
    with TenantWatch(stage.environment) as watch:
        platform.apply(stage.environment, *platform.CATALOG, _TENANTS)
        return _follow(stage, watch, names)


def _fail(stage: Stage) -> list[Tenant]:
    names = _tenants_in(*sorted(_FAILING.glob("*.yaml")))
    _headline(stage.console, f"Applying {names[0]}, whose workload never becomes ready")
    with TenantWatch(stage.environment) as watch:
        platform.apply(stage.environment, _FAILING)
        return _follow(stage, watch, names)


def _tenants_in(*files: Path) -> list[str]:
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return [key(document) for document in documents if document["kind"] == "Tenant"]


def _follow(stage: Stage, watch: TenantWatch, names: list[str]) -> list[Tenant]:
    """Show the tenants until the runs of all are over; the first one with all its activities."""
    tenants: dict[str, Tenant] = {}
    deadline = time.monotonic() + _SETTLE_SECONDS
    with view_of(stage.console, names[0]) as view:
        while not (len(tenants) == len(names) and all(map(has_settled, tenants.values()))):
            if time.monotonic() > deadline:
                late = [name for name in names if name not in tenants or not has_settled(tenants[name])]
                raise PlatformError(f"not settled after {_SETTLE_SECONDS:.0f} s: {', '.join(late)}\n{_log_tail(stage)}")
            stage.cluster.check()
            for tenant in watch.changes(_REFRESH_SECONDS):
                if key(tenant) in names:
                    tenants[key(tenant)] = tenant
                    view.show(tenants)
            view.show(tenants)
    return [tenants[name] for name in names]


def _judge(stage: Stage, tenant: Tenant, findings: Iterable[Finding]) -> list[Finding]:
    judged = []
    _headline(stage.console, f"Checking {key(tenant)}: it …")
    for finding in findings:
        mark, style = ("✗", "red") if finding.problem else ("✓", "green")
        line = f"  {mark} {finding.claim}" + (f": {finding.problem}" if finding.problem else "")
        stage.console.print(line, style=style, markup=False, soft_wrap=True)
        judged.append(finding)
    return judged


def _show_mails(stage: Stage) -> None:
    _headline(stage.console, "Emails received")
    received = [
        (", ".join(mail.get_all("X-Envelope-To", [])), str(mail["Subject"]))
        for mail in read_mails(stage.environment.mail_folder)
    ]
    # Those of one recipient stay in the order of their arrival.
    for recipients, subject in sorted(received, key=lambda mail: mail[0]):
        stage.console.print(f"  {recipients:34} {subject}", markup=False, soft_wrap=True)


def _suggest(stage: Stage) -> None:
    environment = stage.environment
    lines = [f"export KUBECONFIG={environment.kubeconfig}"]
    if shutil.which("kubectl") is None:
        lines.append(f"alias kubectl={environment.kubectl}")
    if shutil.which("psql") is None:
        lines.append(f"alias psql={postgres.programs() / 'psql'}")
    namespace, name = _tenants_in(_TENANTS)[0].split("/")
    commands: list[tuple[str, str]] = [
        ("See all tenants", "kubectl get tenants -A -o wide"),
        ("Read the story of one", f"kubectl describe tenant {name} -n {namespace}"),
        ("See what it holds", f"kubectl get all,secrets,netpol,ingress -n tenant-{name}-{namespace}"),
        ("Break it: this one never gets ready", f"kubectl apply -f {_FAILING}"),
        ("… watch it being rolled back", f"kubectl get tenants -n {namespace} -w"),
        ("… or cancel it at once", f"kubectl annotate tenant doomed -n {namespace} intelliauth.io/action=cancel"),
        ("… and try it again", f"kubectl annotate tenant doomed -n {namespace} intelliauth.io/action=retry"),
        ("Release one", f"kubectl delete tenant {name} -n {namespace}"),
        ("Read the audit feed", f"tail -f {stage.operator.audit}"),
        ("Read the operator's log", f"tail -f {stage.operator.log}"),
        ("Look into PostgreSQL", f"psql '{environment.database_url}' -c '\\l tenant_*'"),
    ]
    _headline(stage.console, "Try it yourself, in another terminal")
    for line in lines:
        stage.console.print(f"  {line}", markup=False, soft_wrap=True)
    for purpose, command in commands:
        stage.console.print(f"\n  # {purpose}\n  {command}", markup=False, soft_wrap=True)
    _headline(stage.console, "Ctrl-C ends the demo and removes everything")


def _show_log(stage: Stage) -> None:
    stage.console.print(_log_tail(stage), markup=False, soft_wrap=True)


def _log_tail(stage: Stage) -> str:
    lines = stage.operator.log.read_text(errors="replace").splitlines()
    return "\n".join(["The end of the operator's log:", *lines[-_LOG_TAIL:]])


def _headline(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    # Lines are seen as they are written, also in a pipe.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    app()
