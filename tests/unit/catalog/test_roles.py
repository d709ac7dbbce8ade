"""Who gets which role: members of an organisation as RoleBindings."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.api.organization import MemberKind, MemberRole, Organization
from tenant_operator.catalog import roles
from tenant_operator.ports import Manifest

ANN = {"kind": "User", "name": "ann@acme.example", "role": "owner"}
BOB = {"kind": "User", "name": "bob@acme.example", "role": "owner"}
SUPPORT = {"kind": "Group", "name": "acme:support", "role": "viewer"}
ARGO = {"kind": "ServiceAccount", "name": "argo", "namespace": "argocd", "role": "admin"}


def an_organization(*members: dict[str, str]) -> Organization:
    return Organization.model_validate(
        {
            "metadata": {"name": "acme", "uid": "uid-acme"},
            "spec": {"namespace": "acme-tenants", "members": list(members)},
        }
    )


def granted(manifests: list[Manifest]) -> set[tuple[str, str, str | None, str]]:
    """Who holds which role: (kind, name, namespace, role)."""
    return {
        (subject["kind"], subject["name"], subject.get("namespace"), manifest["roleRef"]["name"])
        for manifest in manifests
        for subject in manifest["subjects"]
    }


def test_there_is_one_role_binding_for_each_role_that_someone_has() -> None:
    owners, viewers = roles.role_bindings(an_organization(ANN, SUPPORT, BOB))

    assert owners == {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {
            "name": "intelliauth-owner",
            "namespace": "acme-tenants",
            "labels": {"app.kubernetes.io/managed-by": "tenant-operator", "intelliauth.io/organization": "acme"},
            "ownerReferences": [
                {"apiVersion": "intelliauth.io/v1alpha1", "kind": "Organization", "name": "acme", "uid": "uid-acme"}
            ],
        },
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "intelliauth-owner"},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann@acme.example"},
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob@acme.example"},
        ],
    }
    assert viewers["roleRef"]["name"] == "intelliauth-viewer"
    assert [subject["kind"] for subject in viewers["subjects"]] == ["Group"]


def test_a_service_account_is_named_with_its_namespace_and_without_a_group() -> None:
    (admins,) = roles.role_bindings(an_organization(ARGO))

    assert admins["subjects"] == [{"kind": "ServiceAccount", "name": "argo", "namespace": "argocd"}]


def test_without_members_nothing_is_bound() -> None:
    assert roles.role_bindings(an_organization()) == []


def test_who_is_named_twice_is_bound_once_a_role() -> None:
    owners, viewers = roles.role_bindings(an_organization(ANN, ANN, {**ANN, "role": "viewer"}))

    assert len(owners["subjects"]) == len(viewers["subjects"]) == 1


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ({**ARGO, "name": "Argo CD"}, "'Argo CD' (ServiceAccount, admin): that is no name of a ServiceAccount"),
        ({**ARGO, "name": "argo\n"}, "no name of a ServiceAccount"),
        ({**ARGO, "name": "a" * 254}, "no name of a ServiceAccount"),
        ({"kind": "ServiceAccount", "name": "argo", "role": "admin"}, "it needs a namespace"),
        ({**ARGO, "namespace": "Argo"}, "'Argo' is no name of a namespace"),
        ({**ANN, "name": ""}, "its name is empty"),
    ],
)
def test_a_member_that_cannot_be_bound_is_named_and_does_not_stand_in_the_way_of_others(
    member: dict[str, str], says: str
) -> None:
    organization = an_organization(ARGO, member, SUPPORT)

    (problem,) = roles.invalid_members(organization)

    assert says in problem
    assert roles.role_bindings(organization) == roles.role_bindings(an_organization(ARGO, SUPPORT))


MEMBERS = st.builds(
    lambda kind, name, namespace, role: {
        "kind": kind.value,
        "name": name,
        "role": role.value,
        **({"namespace": namespace} if kind is MemberKind.SERVICE_ACCOUNT else {}),
    },
    st.sampled_from(MemberKind),
    st.one_of(st.sampled_from(["ann", "bob", "argo.cd"]), st.text(max_size=20)),
    st.one_of(st.sampled_from(["argocd", "default"]), st.text(max_size=10)),
    st.sampled_from(MemberRole),
)


@given(st.lists(MEMBERS, max_size=12))
def test_every_valid_member_holds_its_role_and_nobody_else_does(members: list[dict[str, str]]) -> None:
    organization = an_organization(*members)
    invalid = len(roles.invalid_members(organization))

    bindings = roles.role_bindings(organization)

    wanted = [
        (member["kind"], member["name"], member.get("namespace"), f"intelliauth-{member['role']}")
        for member in members
        if not roles.invalid_members(an_organization(member))
    ]
    assert granted(bindings) == set(wanted)
    assert len(wanted) + invalid == len(members)
    assert sum(len(binding["subjects"]) for binding in bindings) == len(set(wanted))


def _edited(manifest: Manifest, **metadata: Any) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], **metadata}}


def test_in_step_means_the_same_people_the_same_role_our_labels_and_the_owner() -> None:
    wanted, other = roles.role_bindings(an_organization(ANN, SUPPORT))
    labels = wanted["metadata"]["labels"]

    assert roles.in_step(wanted, wanted)
    assert roles.in_step(_edited(wanted, resourceVersion="7", labels={**labels, "team": "x"}), wanted)
    assert not roles.in_step({**wanted, "subjects": []}, wanted)
    assert not roles.in_step({key: value for key, value in wanted.items() if key != "subjects"}, wanted)
    assert not roles.in_step({**wanted, "roleRef": other["roleRef"]}, wanted)
    assert not roles.in_step(_edited(wanted, labels={}), wanted)
    assert not roles.in_step(_edited(wanted, ownerReferences=[]), wanted)
    assert not roles.in_step(_edited(wanted, ownerReferences=[{"uid": "of-an-earlier-acme"}]), wanted)


def test_whose_a_role_binding_is_shows_by_its_labels_or_else_by_its_owner() -> None:
    organization = an_organization(ANN)
    (ours,) = roles.role_bindings(organization)

    assert roles.organization_of(ours) == "acme"
    assert roles.organization_of(_edited(ours, labels={"intelliauth.io/organization": "acme"})) is None
    assert roles.organization_of(_edited(ours, labels=None)) is None
    assert roles.is_kept_for(_edited(ours, ownerReferences=[]), organization)
    assert roles.is_kept_for(_edited(ours, labels=None), organization)
    assert not roles.is_kept_for(_edited(ours, labels=None, ownerReferences=[{"uid": "another"}]), organization)
