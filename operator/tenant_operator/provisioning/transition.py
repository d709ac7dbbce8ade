"""What is applied of an object while the pods of the former plan still run beside the new ones. Pure."""

from typing import Any, Final

from tenant_operator.ports import Manifest
from tenant_operator.provisioning.quantities import larger

KINDS: Final = frozenset({"ResourceQuota", "Service"})
"""The kinds that are not at once what the new plan makes of them."""


def during(wanted: Manifest, stored: Manifest | None) -> Manifest | None:
    """What to apply for now in place of `wanted`, given what is stored; None: leave it as it is."""
    match wanted["kind"]:
        case "ResourceQuota":
            return _with_room_for_both(wanted, stored)
        case "Service" if stored is not None:
            return _leading_to_both(wanted, stored)
        case _:
            return wanted


def former_ports(wanted: Manifest, stored: Manifest) -> list[str]:
    """The ports of a Service that the plan does not name any more."""
    numbers = {port["port"] for port in wanted["spec"]["ports"]}
    name = wanted["metadata"]["name"]
    return [f"port {port['port']} of Service {name}" for port in _ports(stored) if port["port"] not in numbers]


def _with_room_for_both(wanted: Manifest, stored: Manifest | None) -> Manifest | None:
    """The larger amount of each resource: pods go only when others have taken their place."""
    before = ((stored or {}).get("spec") or {}).get("hard") or {}
    hard = {name: larger(value, before[name]) for name, value in wanted["spec"]["hard"].items() if name in before}
    return {**wanted, "spec": {**wanted["spec"], "hard": hard}} if hard else None


def _leading_to_both(wanted: Manifest, stored: Manifest) -> Manifest:
    """The former ports beside the new ones. A port is found in a pod by its name, which may be on another number there;
    one that has only got another name, by its number."""
    before = {port["port"]: port for port in _ports(stored)}
    ports: list[dict[str, Any]] = []
    for port in wanted["spec"]["ports"]:
        old = before.pop(port["port"], None)
        is_renamed = old is not None and old.get("targetPort") not in (port["targetPort"], port["port"])
        ports.append({**port, "targetPort": port["port"]} if is_renamed else port)
    ports += [{**_kept(port), "name": f"was-{number}"} for number, port in before.items()]
    return {**wanted, "spec": {**wanted["spec"], "ports": ports}}


def _kept(port: dict[str, Any]) -> dict[str, Any]:
    return {"port": port["port"], "targetPort": port.get("targetPort", port["port"]), "protocol": "TCP"}


def _ports(service: Manifest) -> list[dict[str, Any]]:
    return list((service.get("spec") or {}).get("ports") or ())
