"""What the platform team decides for all tenants, as far as the domain cares."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from tenant_operator.api.egress import EgressPeer, EgressPort, EgressRule, IpBlock, LabelSelector, Protocol
from tenant_operator.api.plan import Retry

CLUSTER_DNS: Final = (
    EgressRule(
        to=(
            EgressPeer(
                namespace_selector=LabelSelector(match_labels={"kubernetes.io/metadata.name": "kube-system"}),
                pod_selector=LabelSelector(match_labels={"k8s-app": "kube-dns"}),
            ),
            EgressPeer(
                namespace_selector=LabelSelector(match_labels={"kubernetes.io/metadata.name": "kube-system"}),
                pod_selector=LabelSelector(match_labels={"k8s-app": "node-local-dns"}),
            ),
            EgressPeer(ip_block=IpBlock(cidr="169.254.20.10/32")),
        ),
        ports=(EgressPort(protocol=Protocol.UDP, port=53), EgressPort(protocol=Protocol.TCP, port=53)),
    ),
)
"""CoreDNS or kube-dns where nearly all clusters have it, and the cache on the node, if there is one."""

PRIVATE_NETWORKS: Final = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "168.63.129.16/32",
    "fc00::/7",
    "fe80::/10",
)
"""Private, shared and link-local networks, where nodes, pods and a cloud's metadata are; one cloud has the latter at a
public address."""


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
    `egress_dns`: where every tenant's pods ask for names. `egress_database`: where they reach their database; None: at
    its address, or in its Service's namespace. `egress_closed`: networks that a wider block of a Plan does not open.
    `mail_allowlist`: glob patterns of recipients that may be written to; None allows all.
    `timeouts`, `retries`: by activity, over those of the activities; a Plan overrides both. `stalled_retry`: the pause
    between the tries of a rollback whose budget is used up. `max_takeovers`: how often an activity has its whole
    timeout again because another worker took it over. `degraded_after`: for how long a workload must lack pods until a
    tenant that serves says so.
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
    egress_dns: tuple[EgressRule, ...] = CLUSTER_DNS
    egress_database: tuple[EgressRule, ...] | None = None
    egress_closed: tuple[str, ...] = PRIVATE_NETWORKS
    console_url: str = "https://console.tenants.example"
    support_email: str = "support@tenants.example"
    mail_allowlist: tuple[str, ...] | None = None
    timeouts: dict[str, timedelta] = field(default_factory=dict)
    retries: dict[str, Retry] = field(default_factory=dict)
    stalled_retry: timedelta = timedelta(minutes=1)
    max_takeovers: int = 3
    degraded_after: timedelta = timedelta(seconds=30)

    def may_mail(self, recipient: str) -> bool:
        """Whether the allowlist lets an email out to `recipient`."""
        return self.mail_allowlist is None or any(
            fnmatchcase(recipient.lower(), pattern.lower()) for pattern in self.mail_allowlist
        )
