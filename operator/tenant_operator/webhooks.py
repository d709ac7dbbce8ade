"""The webhooks put together: the rules of admission, and the server through which the API server asks them."""

import asyncio

from tenant_operator.adapters.https_server import HttpsServer
from tenant_operator.adapters.kubernetes.access import SubjectAccessReviews
from tenant_operator.adapters.kubernetes.client import KubernetesClient
from tenant_operator.adapters.kubernetes.offers import KubernetesOffers
from tenant_operator.adapters.serving_tls import Clients, ServingTls
from tenant_operator.admission.judge import Admission
from tenant_operator.admission.reviews import Webhooks
from tenant_operator.settings import Settings
from tenant_operator.wiring import Outside


def serving_tls(settings: Settings) -> ServingTls | None:
    """The certificate of the webhooks; None where they are turned off. Raises CertificateError."""
    if not settings.webhook_port or settings.webhook_certificate is None or settings.webhook_key is None:
        return None
    authority, names = settings.webhook_client_ca, settings.webhook_client_names
    clients = None if authority is None else Clients(authority, frozenset(names))
    return ServingTls(settings.webhook_certificate, settings.webhook_key, clients)


def webhook_server(
    settings: Settings, tls: ServingTls, name: str, kubernetes: KubernetesClient, outside: Outside
) -> HttpsServer:
    """A server that is not open yet, of an operator that the API server knows by `name`. Judged is in this loop."""
    admission = Admission(
        operator=name,
        options=settings.options(),
        catalog=outside.catalog,
        offers=KubernetesOffers(kubernetes),
        access=SubjectAccessReviews(kubernetes),
        cluster=outside.ports.cluster,
        store=outside.store,
        clock=outside.ports.clock,
    )
    token = "" if settings.webhook_token is None else settings.webhook_token.get_secret_value()
    routes = Webhooks(admission, asyncio.get_running_loop()).routes(token)
    return HttpsServer(settings.webhook_host, settings.webhook_port, tls, routes)
