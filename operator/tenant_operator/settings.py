"""The operator's settings: the environment, read once into one frozen model."""

import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from tenant_operator.api.duration import Duration
from tenant_operator.api.egress import EgressRule
from tenant_operator.api.names import ActivityName
from tenant_operator.api.plan import Retry
from tenant_operator.provisioning.egress import as_manifest, network
from tenant_operator.provisioning.options import CLUSTER_DNS, PRIVATE_NETWORKS, Options, RouteKind

PREFIX = "TENANT_OPERATOR_"

WEBHOOK_TOKEN_PLACEHOLDER = "replace-this-token-with-one-of-your-own"  # noqa: S105 (what it says)
"""What manifests have in place of a token: nothing works with it."""
_TOKEN = re.compile(r"[a-z0-9][-a-z0-9]{22,}[a-z0-9]")
_TOKEN_ADVICE = "make one with `openssl rand -hex 24`"  # noqa: S105

T = TypeVar("T")


class SettingsError(Exception):
    """The environment does not make sense; the message names each variable and what is wrong with it."""


def _known_activities(by_activity: dict[str, T]) -> dict[str, T]:
    if unknown := sorted(set(by_activity) - {str(name) for name in ActivityName}):
        raise ValueError(f"unknown activity {', '.join(unknown)}; known are {', '.join(ActivityName)}")
    return by_activity


def _sound_rules(rules: tuple[EgressRule, ...] | None) -> tuple[EgressRule, ...] | None:
    for rule in rules or ():
        as_manifest(rule)
    return rules


def _networks(cidrs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(network(each)) for each in cidrs)


class Settings(BaseSettings):
    """Every setting is an environment variable: the field's name in capitals behind TENANT_OPERATOR_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True, extra="ignore")

    database_url: SecretStr
    """PostgreSQL connection string of the administrator that makes the tenants' databases."""
    database_host: str | None = None
    """Host at which the tenants' workloads reach that PostgreSQL, if it is not the one in DATABASE_URL."""
    database_port: PositiveInt | None = None
    """Port at which the tenants' workloads reach that PostgreSQL, if it is not the one in DATABASE_URL."""
    database_maintenance: str = Field(default="tenant_operator", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """Database that the operator works in, made if it is not there; no tenant's role can connect to it."""
    database_others: Literal["close", "report"] = "close"
    """What happens to the other databases of the server, which tenants' roles could connect to: CONNECT is taken from
    PUBLIC, and given by name to the roles that can log in now; or it is only told. So is what cannot be closed."""
    database_connections: PositiveInt = 10
    """How many administrative operations run on PostgreSQL at once."""

    base_domain: str = Field(default="tenants.example", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    """Tenants serve at https://<slug>-<organization>.<base domain>."""
    route_kind: RouteKind = RouteKind.INGRESS
    """How a tenant's host is routed: Ingress or HTTPRoute (Gateway API)."""
    ingress_class: str | None = None
    """IngressClass of the tenants' Ingresses; the cluster's default if absent."""
    ingress_namespace: str = "ingress-nginx"
    """Namespace of the ingress controller or gateway: the only foreign pods that may reach a tenant's pods."""
    tls_secret: str | None = None
    """Secret with the TLS certificate that the tenants' Ingresses name."""
    gateway_namespace: str = "gateway-system"
    """Namespace of the Gateway that HTTPRoutes attach to."""
    gateway_name: str = "tenants"
    """Name of the Gateway that HTTPRoutes attach to."""
    responder_namespace: str = "tenant-operator"
    """Namespace of the Service that answers while a tenant's route is closed."""
    responder_service: str = "tenant-operator-paused"
    """Name of the Service that answers while a tenant's route is closed."""
    responder_port: PositiveInt = 80
    """Port of the Service that answers while a tenant's route is closed."""

    egress_dns: Annotated[tuple[EgressRule, ...], AfterValidator(_sound_rules)] = CLUSTER_DNS
    """Where tenants' pods ask for names: a list of egress rules as in a NetworkPolicy, as JSON, with peers and ports.
    The default is kube-dns in kube-system and the cache on the node."""
    egress_database: Annotated[tuple[EgressRule, ...] | None, AfterValidator(_sound_rules)] = None
    """Where tenants' pods reach the PostgreSQL, as JSON in the same way. If absent: its port, at its address or, of a
    Service, in its namespace; a database with any other name needs it."""
    egress_closed: Annotated[tuple[str, ...], AfterValidator(_networks)] = PRIVATE_NETWORKS
    """Networks that a wider ipBlock of a Plan does not open, as a JSON list; one that lies within them does. By default
    private, shared and link-local ones."""

    mail_transport: Literal["smtp", "http"] = "smtp"
    """How emails leave: SMTP, or the HTTP API of a provider."""
    mail_sender: str = "Tenant platform <no-reply@tenants.example>"
    """From header of the emails."""
    mail_domain: str = "tenants.example"
    """Domain of the Message-IDs, and the name the SMTP server is greeted with."""
    mail_allowlist: tuple[str, ...] | None = None
    """Glob patterns of recipients that may be written to, as a JSON list; all if absent."""
    smtp_host: str = "localhost"
    """SMTP server."""
    smtp_port: PositiveInt = 587
    """Port of the SMTP server."""
    smtp_tls: Literal["none", "starttls", "implicit"] = "starttls"
    """TLS of the SMTP connection; certificates are verified."""
    smtp_username: str | None = None
    """User at the SMTP server; no authentication if absent."""
    smtp_password: SecretStr | None = None
    """Password at the SMTP server."""
    mail_api_url: str | None = None
    """URL that emails are posted to, with MAIL_TRANSPORT=http."""
    mail_api_token: SecretStr | None = None
    """Bearer token for that URL."""
    console_url: str = "https://console.tenants.example"
    """Console that the emails point to."""
    support_email: str = "support@tenants.example"
    """Address for questions in the emails."""

    audit_log: str = "-"
    """File that audit events are appended to as JSON lines, each once, also if several operators write to it; - is
    standard output, which cannot know what others wrote."""

    concurrency: PositiveInt = 64
    """How many tenants are worked on at once; those that only wait for something do not count."""
    timeouts: Annotated[dict[str, Duration], AfterValidator(_known_activities)] = Field(default_factory=dict)
    """Timeouts by activity, as JSON: {"wait-ready": "5m"}. A Plan overrides them."""
    retries: Annotated[dict[str, Retry], AfterValidator(_known_activities)] = Field(default_factory=dict)
    """Retries by activity, as JSON: {"wait-ready": {"maxTries": 3, "initialBackoff": "2s"}}. A Plan overrides them."""
    stalled_retry: Duration = timedelta(minutes=1)
    """Pause between the tries of a rollback whose budget is used up."""
    degraded_after: Duration = timedelta(seconds=30)
    """How long a workload must lack pods until its tenant says that it is degraded."""
    max_takeovers: int = Field(default=3, ge=0, le=100)
    """How often a running activity has its whole timeout again after a restart; then its time goes on."""
    drain_seconds: PositiveFloat = 20.0
    """Time that running activities have to come to a stop when the operator is told to end."""
    compare: Duration = timedelta(hours=1)
    """In which time every tenant that serves is compared with what there is of it, its database included."""
    resync: Duration = timedelta(minutes=10)
    """How often all Tenants are listed to find what a watch may have missed."""

    kube_connections: PositiveInt = 100
    """Connections to the API server."""
    worker: str = Field(default_factory=lambda: os.environ.get("POD_NAME") or socket.gethostname())
    """Name of this replica in status.run.worker; each life of it adds a suffix of its own."""
    health_host: str = "0.0.0.0"  # noqa: S104 (the kubelet asks from outside the pod)
    """Address of the health endpoints /livez and /readyz."""
    health_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the health endpoints; 0 turns them off."""
    paused_host: str = "0.0.0.0"  # noqa: S104 (the ingress controller asks from outside the pod)
    """Address of the responder that answers for tenants whose route is closed."""
    paused_port: int = Field(default=8081, ge=0, le=65535)
    """Port of that responder; 0 turns it off."""
    webhook_host: str = "0.0.0.0"  # noqa: S104 (the API server asks from outside the pod)
    """Address of the admission webhooks."""
    webhook_port: int = Field(default=9443, ge=0, le=65535)
    """Port of the admission webhooks; 0 turns them off."""
    webhook_certificate: Path | None = None
    """File with the certificate of the admission webhooks, read again when it changes; without it they are off."""
    webhook_key: Path | None = None
    """File with the key of that certificate."""
    webhook_token: SecretStr | None = None
    """Secret part of the webhooks' paths, /<token>/check-tenant, that only the webhook configurations and the operator
    know: 24 or more lowercase letters, digits and dashes, as the API server takes them. Whoever asks without it learns
    nothing."""
    webhook_client_ca: Path | None = None
    """File with the authority (PEM) of the API server's client certificate: whoever has none of it cannot connect. Read
    again when it changes."""
    webhook_client_names: tuple[str, ...] = ()
    """Common names that the API server's client certificate may have, as a JSON list; any if empty."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written."""
    log_format: Literal["json", "console"] = "json"
    """Log lines as JSON objects, or for people."""

    @model_validator(mode="after")
    def _mail_api(self) -> "Settings":
        if self.mail_transport == "http" and not (self.mail_api_url and self.mail_api_token):
            raise ValueError(f"{PREFIX}MAIL_TRANSPORT=http needs {PREFIX}MAIL_API_URL and {PREFIX}MAIL_API_TOKEN")
        return self

    @model_validator(mode="after")
    def _webhook(self) -> "Settings":
        if (self.webhook_certificate is None) is not (self.webhook_key is None):
            raise ValueError(f"{PREFIX}WEBHOOK_CERTIFICATE and {PREFIX}WEBHOOK_KEY go together: set both, or neither")
        if self.webhook_client_names and self.webhook_client_ca is None:
            raise ValueError(f"{PREFIX}WEBHOOK_CLIENT_NAMES needs {PREFIX}WEBHOOK_CLIENT_CA")
        if self.webhook_certificate and self.webhook_token is None and self.webhook_client_ca is None:
            raise ValueError(
                f"{PREFIX}WEBHOOK_CERTIFICATE needs {PREFIX}WEBHOOK_TOKEN, or {PREFIX}WEBHOOK_CLIENT_CA: the webhooks "
                "tell of tenants, and have to tell the API server from others"
            )
        token = self.webhook_token.get_secret_value() if self.webhook_token else None
        if token == WEBHOOK_TOKEN_PLACEHOLDER:
            raise ValueError(f"{PREFIX}WEBHOOK_TOKEN is the one of the example, which everybody knows: {_TOKEN_ADVICE}")
        if token is not None and not _TOKEN.fullmatch(token):
            raise ValueError(
                f"{PREFIX}WEBHOOK_TOKEN has to be 24 or more lowercase letters, digits and dashes: {_TOKEN_ADVICE}"
            )
        return self

    def options(self) -> Options:
        """The part that the domain cares about."""
        return Options(
            base_domain=self.base_domain,
            route_kind=self.route_kind,
            ingress_class=self.ingress_class,
            gateway_namespace=self.gateway_namespace,
            gateway_name=self.gateway_name,
            tls_secret=self.tls_secret,
            responder_namespace=self.responder_namespace,
            responder_service=self.responder_service,
            responder_port=self.responder_port,
            ingress_namespace=self.ingress_namespace,
            egress_dns=self.egress_dns,
            egress_database=self.egress_database,
            egress_closed=self.egress_closed,
            console_url=self.console_url,
            support_email=self.support_email,
            mail_allowlist=self.mail_allowlist,
            timeouts=dict(self.timeouts),
            retries=dict(self.retries),
            stalled_retry=self.stalled_retry,
            degraded_after=self.degraded_after,
            max_takeovers=self.max_takeovers,
        )


def load() -> Settings:
    """The settings of this process. Raises SettingsError naming every variable that is missing or wrong."""
    try:
        return Settings()  # type: ignore[call-arg]  # the environment provides what is required
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False):
            variable = PREFIX + "_".join(str(part) for part in problem["loc"][:1]).upper() if problem["loc"] else ""
            lines.append(": ".join(part for part in (variable, problem["msg"].removeprefix("Value error, ")) if part))
        raise SettingsError("the settings are not valid:\n  " + "\n  ".join(lines)) from None
