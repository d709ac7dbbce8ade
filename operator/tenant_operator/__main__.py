"""The command line: run the operator, print its version and its custom resource definitions."""

import asyncio
import errno
from importlib.metadata import version as installed_version

import typer

from tenant_operator import logs
from tenant_operator.api.generate import render_crds
from tenant_operator.settings import SettingsError, load

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
    try:
        settings = load()
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    logs.configure(settings.log_level, settings.log_format)
    # Imported late: the other commands need neither kopf nor a database driver, and start at once.
    from tenant_operator.adapters.kubernetes.client import LoginError  # noqa: PLC0415
    from tenant_operator.adapters.serving_tls import CertificateError  # noqa: PLC0415
    from tenant_operator.app import serve  # noqa: PLC0415
    from tenant_operator.saga.errors import ActivityError  # noqa: PLC0415

    try:
        asyncio.run(serve(settings))
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
