"""Whom the tenants' pods may reach: resolver and database by the platform's settings, and what their plan asks for.

A plan that opens "the internet" (0.0.0.0/0) means the internet. So a wider block leaves closed what `egress_closed`
names, private and link-local networks by default, where nodes, other tenants, the API server and a cloud's metadata
are; a block that lies within one of them was meant, and opens it.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from tenant_operator.api.egress import EgressPeer, EgressPort, EgressRule, IpBlock, LabelSelector
from tenant_operator.api.plan import Plan
from tenant_operator.ports import Endpoint
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import Rejected

Network = IPv4Network | IPv6Network

_NAMESPACE: Final = "kubernetes.io/metadata.name"
_LABEL: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def egress_rules(options: Options, plan: Plan, database: Endpoint) -> list[dict[str, Any]]:
    """The rules of the NetworkPolicy, the tenant's own pods aside. Rejected if one of the plan's makes no sense, or if
    nobody has said where the database is."""
    closed = [network(each) for each in options.egress_closed]
    platform = [as_manifest(each) for each in (*options.egress_dns, *database_rules(options, database))]
    try:
        return [*platform, *(as_manifest(each, closed) for each in plan.spec.egress)]
    except ValueError as error:
        raise Rejected(f"plan {plan.metadata.name}, egress: {error}") from error


def database_rules(options: Options, database: Endpoint) -> tuple[EgressRule, ...]:
    """Where the tenants reach their database: as the setting says, or else at its address, or in the namespace of its
    Service. Rejected for any other name, as its addresses may change, and to open its port anywhere is not asked for.
    """
    if options.egress_database is not None:
        return options.egress_database
    peer = _peer(database.host)
    if peer is None:
        raise Rejected(
            f"the database is at {database.host}, a name whose addresses may change: say in "
            "TENANT_OPERATOR_EGRESS_DATABASE where tenants may reach it, for instance "
            f'[{{"to":[{{"ipBlock":{{"cidr":"10.20.0.0/16"}}}}],"ports":[{{"port":{database.port}}}]}}]'
        )
    return (EgressRule(to=(peer,), ports=(EgressPort(port=database.port),)),)


def _peer(host: str) -> EgressPeer | None:
    match host.lower().rstrip(".").split("."):
        case [_, namespace, "svc", *_]:
            return EgressPeer(namespace_selector=LabelSelector(match_labels={_NAMESPACE: namespace}))
    try:
        return EgressPeer(ip_block=IpBlock(cidr=str(ip_network(ip_address(host)))))
    except ValueError:
        return None


def as_manifest(rule: EgressRule, closed: Sequence[Network] = ()) -> dict[str, Any]:
    """The rule as a NetworkPolicy has it, `closed` left closed. ValueError, naming what makes no sense."""
    if not rule.to or not rule.ports:
        raise ValueError("name at least one peer (to) and one port (ports): there is no opening all by leaving it out")
    return {"to": [_to(each, closed) for each in rule.to], "ports": [_port(each) for each in rule.ports]}


def network(cidr: str) -> Network:
    """The network. ValueError if it is none."""
    try:
        return ip_network(cidr, strict=False)
    except ValueError:
        raise ValueError(f"'{cidr}' is no network such as 10.20.0.0/16 or fd00:20::/32") from None


def _to(peer: EgressPeer, closed: Sequence[Network]) -> dict[str, Any]:
    match peer:
        case EgressPeer(ip_block=IpBlock() as block, namespace_selector=None, pod_selector=None):
            return {"ipBlock": _block(block, closed)}
        case EgressPeer(ip_block=None, namespace_selector=LabelSelector() as namespaces, pod_selector=None):
            return {"namespaceSelector": _selector(namespaces)}
        case EgressPeer(ip_block=None, namespace_selector=LabelSelector() as namespaces, pod_selector=pods) if pods:
            return {"namespaceSelector": _selector(namespaces), "podSelector": _selector(pods)}
        case _:
            raise ValueError("a peer is an ipBlock, or a namespaceSelector with or without a podSelector")


def _block(block: IpBlock, closed: Sequence[Network]) -> dict[str, Any]:
    whole = network(block.cidr)
    holes = [network(each) for each in block.except_ or ()]
    for hole in holes:
        if not _is_within(hole, whole):
            raise ValueError(f"except {hole} does not lie within {whole}")
    holes += [
        each for each in closed if _is_within(each, whole) and not any(each == o or _is_within(each, o) for o in holes)
    ]
    return {"cidr": str(whole)} | ({"except": [str(each) for each in holes]} if holes else {})


def _is_within(inner: Network, outer: Network) -> bool:
    """Whether one is a part, and not the whole, of the other."""
    match inner, outer:
        case (IPv4Network(), IPv4Network()) | (IPv6Network(), IPv6Network()):
            return inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]
    return False


def _selector(selector: LabelSelector) -> dict[str, Any]:
    if not selector.match_labels:
        raise ValueError("a selector names at least one label: all are not to be selected")
    for label in selector.match_labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"'{label}' cannot be the name of a label")
    return {"matchLabels": dict(selector.match_labels)}


def _port(port: EgressPort) -> dict[str, Any]:
    if port.end_port is not None and port.end_port < port.port:
        raise ValueError(f"endPort {port.end_port} is less than port {port.port}")
    return {"protocol": port.protocol.value, "port": port.port} | ({"endPort": port.end_port} if port.end_port else {})
