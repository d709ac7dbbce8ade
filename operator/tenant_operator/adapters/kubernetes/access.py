"""Who somebody is and what they may do, answered by the API server's own authenticators and authorizers."""

from typing import Any, Final

from tenant_operator.api.names import GROUP
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Caller

from .client import KubernetesClient

_AUTHORIZATION: Final = "authorization.k8s.io/v1"
_AUTHENTICATION: Final = "authentication.k8s.io/v1"


class SubjectAccessReviews:
    """`ports.AccessReview`. No answer is remembered: a role that is withdrawn is withdrawn at once."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        """Whether the caller may do `verb` to that Tenant. Raises Unavailable, or Rejected if nobody may ask."""
        return await self._review(caller, Tenant.definition.plural, verb, {"namespace": namespace, "name": name})

    async def may_list(self, caller: Caller, plural: str) -> bool:
        """Whether the caller may list that kind in all namespaces. Raises as above."""
        return await self._review(caller, plural, "list", {})

    async def _review(self, caller: Caller, plural: str, verb: str, which: dict[str, str]) -> bool:
        spec: dict[str, Any] = {
            "user": caller.name,
            "groups": list(caller.groups),
            "uid": caller.uid,
            "extra": {key: list(values) for key, values in caller.extra.items()},
            "resourceAttributes": {"group": GROUP, "resource": plural, "verb": verb, **which},
        }
        status = await _review(self._client, _AUTHORIZATION, "SubjectAccessReview", spec)
        return bool(status.get("allowed"))


async def own_name(client: KubernetesClient) -> str:
    """The user name that this process has at the API server. Raises an ActivityError."""
    status = await _review(client, _AUTHENTICATION, "SelfSubjectReview", {})
    return str(status["userInfo"]["username"])


async def _review(client: KubernetesClient, version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    body = {"apiVersion": version, "kind": kind, **({"spec": spec} if spec else {})}
    answer = await client.request("POST", f"/apis/{version}/{kind.lower()}s", subject=f"the {kind}", body=body)
    status: dict[str, Any] = answer.json()["status"]
    return status
