"""The attacker: a network peer that knows the token of the webhooks' paths, from an error message of the API server.

Where the API server has a client certificate, that is of no use: the operator asks for it. The attacker may have a
certificate of its own making, or that of a user of the cluster, which the same authority has signed.
"""

import json
from pathlib import Path

from devcluster import Environment
from devcluster.certificates import Authority
from devcluster.control_plane import WEBHOOK_CLIENT
from devcluster.platform import client_authority
from tests.attacks.network_peer import Target, a_review
from tests.e2e import webhook
from tests.e2e.feed import TenantFeed
from tests.e2e.webhook import OWNER


def test_without_the_api_server_s_certificate_there_is_not_even_a_path(
    platform: Environment, tenant_feed: TenantFeed, tmp_path: Path
) -> None:
    """A forged certificate does not help, and neither does a true one of the same authority: that of a user."""
    certificates = client_authority(platform).parent
    forged = Authority(tmp_path, "devcluster-ca").client_certificate("forged", WEBHOOK_CLIENT)
    asks = {"WEBHOOK_CLIENT_CA": str(client_authority(platform)), "WEBHOOK_CLIENT_NAMES": json.dumps([WEBHOOK_CLIENT])}
    (tmp_path / "operator").mkdir()
    with webhook.gated_world(platform, tenant_feed, tmp_path / "operator", **asks) as gate:
        target, path = Target(gate.webhook.port), f"/{gate.webhook.token}/check-tenant"
        body = a_review("CREATE", plan="no-such")

        def shows(folder: Path, name: str) -> bytes:
            return target.ask(path, body, certificate=(str(folder / f"{name}.crt"), str(folder / f"{name}.key")))

        assert target.ask(path, body) == b""
        assert shows(forged.certificate.parent, "forged") == b""
        assert shows(certificates, "admin") == b""
        assert b"there is no such Plan" in shows(certificates, "webhook-client")
        # The API server itself, end to end.
        tenant = gate.tenant("certified")
        tenant.settles("Active")
        refused = gate.ask_about("certified", "annotate", "intelliauth.io/action=cancel", user=OWNER)
        assert "cancel is possible in Provisioning only" in refused.err
        tenant.delete()
