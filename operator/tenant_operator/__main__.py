"""The command line: run the operator, find what belongs to no tenant, print version and custom resource definitions."""

import asyncio
import errno
from enum import StrEnum
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from tenant_operator import logs
from tenant_operator.api.crds import render_crds
from tenant_operator.settings import Settings, SettingsError, load

app = typer.Typer(
    name="tenant-operator",
    help="Provisions the tenants of an authentication platform as durable sagas.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run() -> None:
    """Run the operator until it is told to end. Its settings are environment variables: TENANT_OPERATOR_*."""
    settings = _settings()
    logs.configure(settings.log_level, settings.log_format)
    # Imported late: the other commands need neither kopf nor a database driver, and start at once.
    import uvloop  # noqa: PLC0415

    from tenant_operator.adapters.kubernetes.client import LoginError  # noqa: PLC0415
    from tenant_operator.adapters.serving_tls import CertificateError  # noqa: PLC0415
    from tenant_operator.app import serve  # noqa: PLC0415
    from tenant_operator.saga.errors import ActivityError  # noqa: PLC0415

    try:
        uvloop.run(serve(settings))
    except LoginError as error:
        typer.echo(f"cannot log in to a cluster: {error}", err=True)
        raise typer.Exit(2) from None
    except (CertificateError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except ActivityError as error:
        typer.echo(f"cannot start: {error.message}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        settings_of_ports = ", ".join(f"TENANT_OPERATOR_{name}_PORT" for name in ("HEALTH", "PAUSED", "WEBHOOK"))
        typer.echo(
            f"another program listens there: {error.strerror}; choose other ports: {settings_of_ports}", err=True
        )
        raise typer.Exit(2) from None


class Output(StrEnum):
    """How findings are printed."""

    TABLE = "table"
    JSON = "json"


@app.command()
def orphans(
    output: Annotated[Output, typer.Option("--output", "-o", help="A table for people, or JSON.")] = Output.TABLE,
    uids: Annotated[
        list[str] | None,
        typer.Option("--release", metavar="UID", help="Release the orphans that carry this UID. May be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before something is released.")] = False,
) -> None:
    """Compare ledgers, cluster and PostgreSQL: what is there without a Tenant, and what a ledger has and is not there.

    Its settings are those of the operator. Exit code 0: all fits; 1: something does not; 2: it cannot be found out.
    """
    settings = _settings()
    logs.configure("error", "console")
    from tenant_operator.adapters.kubernetes.client import LoginError  # noqa: PLC0415
    from tenant_operator.orphans import FAILED  # noqa: PLC0415
    from tenant_operator.saga.errors import ActivityError  # noqa: PLC0415

    try:
        code = asyncio.run(_orphans(settings, output, uids or [], yes=yes))
    except (LoginError, ActivityError) as error:
        typer.echo(f"cannot find out: {error}", err=True)
        code = FAILED
    raise typer.Exit(code)


async def _orphans(settings: Settings, output: Output, uids: list[str], *, yes: bool) -> int:
    from tenant_operator import orphans as command  # noqa: PLC0415

    async with command.places(settings) as places:
        findings = await places.findings()
        if not uids:
            text = command.as_json(findings) if output is Output.JSON else command.table(findings)
            typer.echo(text if findings or output is Output.JSON else "everything belongs to a tenant, and is there")
            return command.FOUND if findings else command.NOTHING
        typer.echo(command.table(command.chosen(findings, uids)))
        typer.echo(command.WARNING, err=True)
        if not yes and not typer.confirm("Release all of these?", err=True):
            return command.FOUND
        released = await command.release(places, uids, typer.echo)
        return command.NOTHING if released else command.FOUND


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("tenant-operator"))


@app.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, to be applied with kubectl."""
    typer.echo("---\n".join(render_crds().values()), nl=False)


def main() -> None:
    """The entry point of the `tenant-operator` command."""
    app()


if __name__ == "__main__":
    main()
