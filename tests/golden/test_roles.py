"""What the shipped roles allow: the table that people rely on."""

from typing import Any

import pytest

from devcluster.platform import installed
from tenant_operator.api.organization import MemberRole
from tenant_operator.catalog.roles import cluster_role

ROLES = {each["metadata"]["name"]: each for each in installed("ClusterRole")}
LOOK = {"get", "list", "watch"}
WORK = LOOK | {"create", "update", "patch", "provision", "cancel", "retry", "reset", "suspend"}
TENANT_VERBS = {
    MemberRole.OWNER: WORK | {"delete", "decommission"},
    MemberRole.ADMIN: WORK,
    MemberRole.VIEWER: LOOK,
}


def verbs(role: dict[str, Any], group: str, resource: str) -> set[str]:
    return {
        verb
        for rule in role["rules"]
        if group in rule["apiGroups"] and resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("role", MemberRole)
def test_a_role_may_do_with_tenants_what_the_table_says_and_nothing_else_but_read_events(role: MemberRole) -> None:
    manifest = ROLES[cluster_role(role)]

    assert verbs(manifest, "intelliauth.io", "tenants") == TENANT_VERBS[role]
    assert verbs(manifest, "events.k8s.io", "events") == verbs(manifest, "", "events") == LOOK
    assert {resource for rule in manifest["rules"] for resource in rule["resources"]} == {"tenants", "events"}


def test_kubernetes_own_roles_gain_nothing_but_looking() -> None:
    aggregated = {
        name
        for name, each in ROLES.items()
        if any(label.startswith("rbac.authorization.k8s.io/") for label in each["metadata"]["labels"])
    }

    assert aggregated == {cluster_role(MemberRole.VIEWER)}


def test_nothing_is_granted_to_everyone() -> None:
    subjects = [subject for each in installed("ClusterRoleBinding", "RoleBinding") for subject in each["subjects"]]

    assert subjects
    assert not [subject for subject in subjects if subject["name"].startswith("system:")]


def test_a_catalog_viewer_may_read_the_plans_and_nothing_else() -> None:
    (rule,) = ROLES["intelliauth-catalog-viewer"]["rules"]

    assert (rule["apiGroups"], rule["resources"], set(rule["verbs"])) == (["intelliauth.io"], ["plans"], LOOK)
