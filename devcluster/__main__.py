"""The command line: start, stop and use a development cluster by hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from devcluster import binaries, platform
from devcluster.children import ChildFailedError
from devcluster.cluster import AlreadyRunningError, DevCluster, Environment, add_user, supervisor_pid
from devcluster.interruption import ignore_interrupts, raise_on_interrupts
from devcluster.mailbox import read_mails
from devcluster.platform import Operator, PlatformError

_STOP_SECONDS = 40.0
_CHECK_SECONDS = 0.5

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
State = Annotated[Path, typer.Option(help="The folder that holds everything of one cluster.")]
DEFAULT_STATE = Path(".devcluster")


def _say(line: str) -> None:
    print(f"devcluster: {line}", file=sys.stderr, flush=True)


def _fail(line: str) -> typer.Exit:
    _say(line)
    return typer.Exit(1)


def _describe(environment: Environment) -> None:
    print(f"export KUBECONFIG={environment.kubeconfig}")
    print(f"kubectl     {environment.kubectl}")
    print(f"PostgreSQL  {environment.database_url}")
    print(f"SMTP        {environment.smtp_host}:{environment.smtp_port}, mails in {environment.mail_folder}")
    print(f"logs        {environment.state / 'logs'}")
    if (operator := Operator.load(environment.state)) is not None:
        print(f"operator    {operator.log}")
        print(f"audit feed  {operator.audit}")


def _running(state: Path) -> Environment:
    environment = Environment.load(state)
    if environment is None:
        raise _fail(f"no cluster is running in {state.absolute()}")
    return environment


@app.command()
def build() -> None:
    """Build the programs, if that was not done yet."""
    try:
        programs = binaries.ensure(_say)
    except binaries.BuildError as error:
        raise _fail(str(error)) from error
    for name, path in sorted(programs.paths.items()):
        print(f"{name:25} {path}")


@app.command()
def up(
    state: State = DEFAULT_STATE,
    operator: Annotated[
        bool, typer.Option(help="Run the operator too, with the samples' organisation and plans.")
    ] = False,
    foreground: Annotated[bool, typer.Option(help="Stay until interrupted.")] = False,
) -> None:
    """Start a cluster; says so if it is already running."""
    running = Environment.load(state)
    if running is not None and not foreground:
        if operator and Operator.load(state) is None:
            raise _fail(f"a cluster without a ready operator is running in {running.state}: take it down first")
        _say("already running")
        _describe(running)
        return
    started = time.monotonic()
    try:
        if foreground:
            _stay(state, started, operator=operator)
        else:
            _start_in_background(state, started, operator=operator)
    except (AlreadyRunningError, binaries.BuildError, ChildFailedError, PlatformError) as error:
        raise _fail(str(error)) from error


def _stay(state: Path, started: float, *, operator: bool) -> None:
    raise_on_interrupts()
    cluster = DevCluster(state, report=_say)
    try:
        environment = cluster.start()
        if operator:
            platform.install(environment)
            platform.apply(environment, *platform.CATALOG)
            platform.start_operator(cluster, environment)
        _describe(environment)
        _say(f"ready after {time.monotonic() - started:.1f} s")
        sys.stdout.flush()
        while True:
            time.sleep(_CHECK_SECONDS)
            cluster.check()
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        # A second Ctrl-C must not leave the stop half done.
        ignore_interrupts()
        cluster.stop()


def _start_in_background(state: Path, started: float, *, operator: bool) -> None:
    # Here and not in the background, so that the progress of the build is seen and can be interrupted.
    binaries.ensure(_say)
    (state / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    log = state / "logs" / "supervisor.log"
    command = [sys.executable, "-m", "devcluster", "up", "--foreground", "--state", str(state.absolute())]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(  # noqa: S603
            [*command, "--operator"] if operator else command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
    try:
        while (environment := Environment.load(state)) is None or (operator and Operator.load(state) is None):
            # Another start in the same folder may have been faster: then its cluster is the one to wait for.
            if supervisor.poll() is not None and supervisor_pid(state) is None:
                raise ChildFailedError(f"the cluster did not start:\n{log.read_text()}")
            time.sleep(0.05)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise
    _describe(environment)
    _say(f"ready after {time.monotonic() - started:.1f} s")


@app.command()
def down(
    state: State = DEFAULT_STATE,
    delete: Annotated[bool, typer.Option(help="Delete the state folder, with all data, too.")] = False,
) -> None:
    """Stop the cluster."""
    pid = supervisor_pid(state)
    if pid is None:
        _say("not running")
    else:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while supervisor_pid(state) == pid:
            if time.monotonic() > deadline:
                _say("does not stop: killing it, and so all of its children")
                os.kill(pid, signal.SIGKILL)
                deadline += _STOP_SECONDS
            time.sleep(0.05)
        _say("stopped")
    # The lock says that this folder is a cluster's and not something else that --state names by mistake.
    if delete and (state / "lock").exists():
        _delete(state)


def _delete(state: Path) -> None:
    """Delete the folder, but not the clusters that run in folders inside of it."""
    nested = {lock.parent for lock in state.glob("*/lock") if supervisor_pid(lock.parent) is not None}
    if not nested:
        shutil.rmtree(state)
        return
    for entry in state.iterdir():
        if entry in nested:
            _say(f"left alone, because a cluster is running there: {entry}")
        elif entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@app.command()
def status(state: State = DEFAULT_STATE) -> None:
    """Tell whether the cluster is running (exit code 0) and how to reach it."""
    environment = Environment.load(state)
    if environment is None and supervisor_pid(state) is not None:
        raise _fail("starting or stopping")
    environment = _running(state)
    _say("running")
    _describe(environment)


@app.command()
def kubeconfig(state: State = DEFAULT_STATE) -> None:
    """Print the path of the administrator's kubeconfig."""
    print(_running(state).kubeconfig)


@app.command()
def user(
    name: str,
    group: Annotated[list[str] | None, typer.Option(help="A group of the user; can be repeated.")] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Make a kubeconfig for one more user, and print its path."""
    _running(state)
    print(add_user(state, name, group or ()))


@app.command()
def helm() -> None:
    """Print the path of Helm, building it if that was not done yet."""
    try:
        print(binaries.clients(_say)["helm"])
    except binaries.BuildError as error:
        raise _fail(str(error)) from error


@app.command()
def mails(state: State = DEFAULT_STATE) -> None:
    """Print the mails received so far, oldest first."""
    for number, mail in enumerate(read_mails(_running(state).mail_folder), start=1):
        print(f"--- {number}: {mail['X-Envelope-From']} to {', '.join(mail.get_all('X-Envelope-To', []))}")
        print(f"Subject: {mail['Subject']}\nMessage-ID: {mail['Message-ID']}\n")
        body = mail.get_body(("plain", "html"))
        print(body.get_content() if body else "")


if __name__ == "__main__":
    app()
