"""What `helm test` runs in the cluster: has the operator what it needs, does the responder answer, and does the API
server ask the operator?"""
# ruff: noqa: T201

import os
import socket
import ssl
import sys
from pathlib import Path

import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 30.0


class Failure(Exception):
    """Something is not as it should be; the message says what, and where to look."""


def check_needs(host: str, port: int) -> str:
    """Every pod of the operator is ready. What each says of its needs is told: some do not keep it from working."""
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        raise Failure(f"{host} leads nowhere ({error}): does the operator's pod run?") from None
    told, ready = [], True
    for address in found:
        url = f"http://{f'[{address}]' if ':' in address else address}:{port}/readyz"
        try:
            answer = httpx.get(url, timeout=SECONDS)
        except httpx.HTTPError as error:
            raise Failure(f"{url} did not answer ({error or type(error).__name__}): see the operator's log") from None
        ready = ready and answer.status_code == httpx.codes.OK
        lines = "; ".join(answer.text.strip().splitlines())
        told.append(f"the operator at {address} is {'ready' if answer.is_success else 'not ready'}: {lines}")
    if not ready:
        raise Failure("\n".join(told))
    return "\n".join(told)


def check_responder(url: str) -> str:
    """A request for a tenant whose route is closed is told to come back later."""
    try:
        answer = httpx.get(url, headers={"Host": "closed.tenants.example"}, timeout=SECONDS)
    except httpx.HTTPError as error:
        raise Failure(f"{url} did not answer ({error or type(error).__name__}): is the operator's pod ready?") from None
    retry_after = answer.headers.get("Retry-After", "")
    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or not retry_after.isdigit():
        raise Failure(f"{url} answered {answer.status_code} with Retry-After {retry_after!r}, expected 503 and seconds")
    return f"{url} answers 503, Retry-After {retry_after} s"


def check_admission(server: str, namespace: str, account: Path) -> str:
    """A Tenant by somebody without a role is refused by the operator: the API server reached it, and it the API server.

    This account may create Tenants as far as Kubernetes' own verbs go, and lacks the product's verb `provision`.
    Nothing would come of it anyway: it is a dry run.
    """
    tenant = {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"generateName": "helm-test-", "namespace": namespace},
        "spec": {
            "organization": "helm-test",
            "displayName": "helm-test",
            "plan": "helm-test",
            "admin": {"email": "nobody@helm-test.example"},
        },
    }
    token = (account / "token").read_text(encoding="utf-8").strip()
    try:
        answer = httpx.post(
            f"{server}/apis/intelliauth.io/v1alpha1/namespaces/{namespace}/tenants",
            params={"dryRun": "All"},
            json=tenant,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=account / "ca.crt"),
            timeout=SECONDS,
        )
        said = str(answer.json().get("message"))
    except (httpx.HTTPError, ValueError) as error:
        raise Failure(f"the API server at {server} did not answer ({error or type(error).__name__})") from None
    refused = 'admission webhook "check-tenant.intelliauth.io" denied the request'
    if answer.status_code != httpx.codes.FORBIDDEN or not said.startswith(refused) or "'provision'" not in said:
        raise Failure(f"expected the operator's refusal, got {answer.status_code}: {said}")
    return f"the API server asks the operator: {said}"


def main() -> int:
    """Run what the environment asks for; 0 if all of it is well."""
    try:
        print(check_needs(os.environ["HEALTH_HOST"], int(os.environ.get("HEALTH_PORT", "8080"))))
        print(check_responder(os.environ["RESPONDER_URL"]))
        if namespace := os.environ.get("ADMISSION_NAMESPACE"):
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
            server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
            print(check_admission(server, namespace, Path(os.environ.get("ACCOUNT", ACCOUNT))))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
