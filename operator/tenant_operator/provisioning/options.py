"""What the platform team decides for all tenants, as far as the domain cares."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase

from tenant_operator.api.plan import Retry


class RouteKind(StrEnum):
    """How a tenant's host reaches its workloads."""

    INGRESS = "Ingress"
    HTTP_ROUTE = "HTTPRoute"


@dataclass(frozen=True, slots=True)
class Options:
    """Platform-wide options of the domain, read once at start.

    `base_domain`: tenants serve at https://<slug>-<organization>.<base_domain>.
    `gateway`: namespace and name of the Gateway that HTTPRoutes attach to.
    `responder_host`, `responder_port`: where requests go while a tenant's route is closed (the paused page).
    `ingress_namespace`: the only foreign namespace whose pods may reach a tenant's pods.
    `mail_allowlist`: glob patterns of recipients that may be written to; None allows all.
    `timeouts`, `retries`: by activity, over those of the activities; a Plan overrides both. `stalled_retry`: the pause
    between the tries of a rollback whose budget is used up. `max_takeovers`: how often an activity has its whole
    timeout again because another worker took it over.
    """

    base_domain: str = "tenants.example"
    route_kind: RouteKind = RouteKind.INGRESS
    ingress_class: str | None = None
    gateway_namespace: str = "gateway-system"
    gateway_name: str = "tenants"
    tls_secret: str | None = None
    responder_namespace: str = "tenant-operator"
    responder_service: str = "tenant-operator-paused"
    responder_port: int = 80
    ingress_namespace: str = "ingress-nginx"
    console_url: str = "https://console.tenants.example"
    support_email: str = "support@tenants.example"
    mail_allowlist: tuple[str, ...] | None = None
    timeouts: dict[str, timedelta] = field(default_factory=dict)
    retries: dict[str, Retry] = field(default_factory=dict)
    stalled_retry: timedelta = timedelta(minutes=1)
    max_takeovers: int = 3

    def may_mail(self, recipient: str) -> bool:
        """Whether the allowlist lets an email out to `recipient`."""
        return self.mail_allowlist is None or any(
            fnmatchcase(recipient.lower(), pattern.lower()) for pattern in self.mail_allowlist
        )
