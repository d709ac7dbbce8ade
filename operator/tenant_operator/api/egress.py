"""Whom pods may reach: the rules of a NetworkPolicy in Kubernetes' own shape, less what opens more than it says.

Peers, ports and labels have to be named: an empty list, which Kubernetes takes for "all", is not to be had by leaving
something out.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from .cel import rule, rules
from .fields import ApiModel, bounded_list, keywords, whole

Cidr = Annotated[str, keywords({"format": "cidr", "minLength": 1, "maxLength": 64})]
"""A network, such as 10.20.0.0/16 or fd00:20::/32."""

Port = Annotated[int, whole(1, 65535)]

LabelValue = Annotated[str, keywords({"maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"})]

MAX_ITEMS: Final = 16


class LabelSelector(ApiModel):
    """What carries all of these labels."""

    match_labels: Annotated[dict[str, LabelValue], keywords({"minProperties": 1, "maxProperties": MAX_ITEMS})]
    """The labels: one at least, so that all is not selected."""


class IpBlock(ApiModel):
    """A network, with holes."""

    cidr: Cidr
    """The network, such as 10.20.0.0/16."""
    except_: Annotated[tuple[Cidr, ...], bounded_list(MAX_ITEMS)] | None = Field(default=None, alias="except")
    """Networks within it that stay closed."""


class EgressPeer(ApiModel):
    """Where the traffic may go: to a network, or to pods of the cluster."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.ipBlock) != has(self.namespaceSelector)",
                "name an ipBlock, or a namespaceSelector, and not both",
            ),
            rule(
                "!has(self.podSelector) || has(self.namespaceSelector)",
                "a podSelector needs a namespaceSelector: the pods of the tenant itself may be reached anyway",
            ),
        )
    )

    ip_block: IpBlock | None = None
    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector | None = None


class Protocol(StrEnum):
    """The protocol of a port."""

    TCP = "TCP"
    """Connections."""
    UDP = "UDP"
    """Datagrams."""
    SCTP = "SCTP"
    """Associations."""


class EgressPort(ApiModel):
    """A port of the other side, or a range of them; of a Service that of the pods behind it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!has(self.endPort) || self.endPort >= self.port", "endPort must not be less than port")
        )
    )

    protocol: Protocol = Protocol.TCP
    """What is spoken there."""
    port: Port
    """The port, or the first of a range."""
    end_port: Port | None = None
    """The last of a range."""


class EgressRule(ApiModel):
    """Traffic to any of the peers, at any of the ports."""

    to: Annotated[tuple[EgressPeer, ...], bounded_list(MAX_ITEMS), keywords({"minItems": 1})]
    """Where it may go: one at least."""
    ports: Annotated[tuple[EgressPort, ...], bounded_list(MAX_ITEMS), keywords({"minItems": 1})]
    """At which ports: one at least."""
