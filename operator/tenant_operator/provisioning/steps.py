"""The plan of provisioning: what is done for a tenant, in order."""

from collections.abc import Sequence

from tenant_operator.ports import Migration
from tenant_operator.provisioning.activities.allocate_identity_store import AllocateIdentityStore
from tenant_operator.provisioning.activities.allocate_namespace import AllocateNamespace
from tenant_operator.provisioning.activities.allocate_storage import AllocateStorage
from tenant_operator.provisioning.activities.allocate_traffic_boundary import AllocateTrafficBoundary
from tenant_operator.provisioning.activities.apply_schema import ApplySchema
from tenant_operator.provisioning.activities.deploy_workloads import DeployWorkloads
from tenant_operator.provisioning.activities.mark_active import MarkActive
from tenant_operator.provisioning.activities.send_welcome_emails import SendWelcomeEmails
from tenant_operator.provisioning.activities.validate_request import ValidateRequest
from tenant_operator.provisioning.activities.wait_ready import WaitReady
from tenant_operator.provisioning.activity import Activity
from tenant_operator.provisioning.options import Options


def provisioning_steps(options: Options, migrations: Sequence[Migration]) -> tuple[Activity, ...]:
    """The activities of provisioning; releasing compensates them, last first."""
    return (
        # validate
        ValidateRequest(),
        # allocate
        AllocateNamespace(),
        AllocateStorage(),
        AllocateIdentityStore(),
        AllocateTrafficBoundary(options),
        ApplySchema(migrations),
        # deploy
        DeployWorkloads(),
        WaitReady(),
        # activate
        MarkActive(),
        # welcome
        SendWelcomeEmails(),
    )
