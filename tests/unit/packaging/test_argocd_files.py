"""The files for Argo CD fit together: what its own tests would check, the ConfigMaps, the example in Git.

`python -m tests.unit.packaging.test_argocd_files` (with `operator` on PYTHONPATH) writes Argo CD's tests of the Lua
anew. They say what it comes to, for people to review; what it should come to is in the two tests beside this one.
"""

import copy
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenant_operator.admission.rules import ask_of
from tenant_operator.api.conditions import Reason
from tenant_operator.api.states import DesiredState
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.findings import Finding
from tests.unit.packaging.argocd import ACTIONS, ARGOCD, CUSTOMIZATIONS, DISCOVERY, HEALTH, documents
from tests.unit.packaging.lua import Sandbox
from tests.unit.packaging.test_argocd_health import BAD_MEMBER, NO_PLAN, WAITING, organization, plan
from tests.unit.tenants.tenant_states import Object, tenant_states

ROOT = ARGOCD.parents[1]
HEALTH_STATES = (
    "created",
    "provisioning-waiting",
    "provisioning-rolling-back-cancelled",
    "provisioning-rollback-stuck-failed",
    "pending-cancelled",
    "active",
    "active-rolling-out",
    "active-degraded",
    "active-degraded-rolling-out",
    "active-refused-retry",
    "active-unseen-suspend",
    "suspended",
    "suspended-resuming",
    "failed",
    "failed-reset",
    "decommissioning",
    "decommissioned",
)
AIMS = {
    "cancel": "provisioning-waiting",
    "retry": "failed",
    "reset": "failed",
    "suspend": "active",
    "resume": "suspended",
    "recreate": "decommissioned",
    "decommission": "suspended",
}
ACTION_DATA = Path("Tenant/actions/testdata")
SHOWN = {"Ready", "Reconciling", "Stalled", "TrafficEnabled", "ResourcesHeld"}


def brief(state: Object) -> Object:
    """A Tenant without what neither health nor actions look at: it would only hide the rest."""
    state = copy.deepcopy(state)
    del state["metadata"]["uid"], state["metadata"]["resourceVersion"]
    status = state["status"]
    kept = {name: status[name] for name in ("observedGeneration", "state", "attempt") if name in status}
    conditions = [each for each in status.get("conditions", []) if each["type"] in SHOWN]
    last = {key: value for key, value in status.get("lastAction", {}).items() if key != "id"}
    state["status"] = kept | ({"conditions": conditions} if conditions else {}) | ({"lastAction": last} if last else {})
    return state


def subjects() -> dict[Path, Object]:
    """The objects that the tests are about, by file; each Tenant came to its state by the real rules."""
    states = {name: brief(state) for name, state in tenant_states().items() if "status" in state}
    files = {Path("Tenant/testdata", f"{name}.yaml"): states[name] for name in HEALTH_STATES}
    for name in sorted({*AIMS.values(), "decommissioning"}):
        files[ACTION_DATA / f"{name}.yaml"] = states[name]
    abandoned = copy.deepcopy(states["provisioning-waiting"])
    abandoned["status"]["run"] = {"direction": "Forward", "startedAt": "2026-11-21T06:00:00Z", "worker": "worker-1"}
    files[ACTION_DATA / "provisioning-abandoned.yaml"] = abandoned
    for name, findings in {
        "created": None,
        "ready": [],
        "waiting": [WAITING],
        "plan-missing": [NO_PLAN],
        "invalid": [BAD_MEMBER],
    }.items():
        files[Path("Organization/testdata", f"{name}.yaml")] = organization(findings=findings)
    for name, faults in {
        "created": None,
        "ready": [],
        "invalid": [Finding(Reason.INVALID_PLAN, "the plan has no workload with a port to take the traffic")],
    }.items():
        files[Path("Plan/testdata", f"{name}.yaml")] = plan(generation=1, findings=faults)
    return files


def in_order_of(before: Any, after: Any) -> Any:
    """What Lua returned, with its fields in the order in which people have written them."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [name for name in before if name in after] + sorted(after.keys() - before.keys())
        return {name: in_order_of(before.get(name), after[name]) for name in names}
    if isinstance(before, list) and isinstance(after, list):
        return [in_order_of(*each) for each in zip(before, after, strict=True)]
    return after


@cache
def written() -> dict[Path, Object]:
    """Test data and tests, by file."""
    files = subjects()
    tests: Object = {"discoveryTests": [], "actionTests": []}
    for path, subject in subjects().items():
        if path.parent == ACTION_DATA:
            result = Sandbox(DISCOVERY).discovery(subject)
            tests["discoveryTests"].append({"inputPath": f"testdata/{path.name}", "result": result})
    for action, name in AIMS.items():
        before, after = f"{name}.yaml", f"{name}-{action}.yaml"
        subject = files[ACTION_DATA / before]
        files[ACTION_DATA / after] = in_order_of(subject, Sandbox(ACTIONS[action]).action(subject))
        paths = {"inputPath": f"testdata/{before}", "expectedOutputPath": f"testdata/{after}"}
        tests["actionTests"].append({"action": action, **paths})
    files[ACTION_DATA.parent / "action_test.yaml"] = tests
    for kind, script in HEALTH.items():
        files[Path(kind, "health_test.yaml")] = {
            "tests": [
                {"healthStatus": Sandbox(script).health(subject), "inputPath": f"testdata/{path.name}"}
                for path, subject in subjects().items()
                if path.parent == Path(kind, "testdata")
            ]
        }
    return files


def text_of(manifest: Object) -> str:
    return yaml.safe_dump(manifest, sort_keys=False, width=120)


FILES = sorted(path.relative_to(CUSTOMIZATIONS) for path in CUSTOMIZATIONS.rglob("*.yaml"))


def test_the_folders_hold_exactly_what_is_written() -> None:
    assert set(FILES) == written().keys()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_file_is_what_is_written(path: Path) -> None:
    assert (CUSTOMIZATIONS / path).read_text() == text_of(written()[path]), "see the top of this file"


# What Argo CD's own tests do with the files, were they among its resource_customizations.


def health_tests() -> list[tuple[str, Path, Object]]:
    found = []
    for kind in HEALTH:
        (tests,) = documents(CUSTOMIZATIONS / kind / "health_test.yaml")
        found += [(kind, CUSTOMIZATIONS / kind / each["inputPath"], each["healthStatus"]) for each in tests["tests"]]
    return found


ACTION_FOLDER = CUSTOMIZATIONS / ACTION_DATA.parent


def action_tests(of: str) -> list[dict[str, Any]]:
    (tests,) = documents(ACTION_FOLDER / "action_test.yaml")
    found: list[dict[str, Any]] = tests[of]
    return found


@pytest.mark.parametrize(("kind", "path", "expected"), health_tests())
def test_the_health_tests_of_argo_cd(kind: str, path: Path, expected: Object) -> None:
    (state,) = documents(path)

    assert Sandbox(HEALTH[kind]).health(state) == expected


def test_every_object_is_judged_by_a_health_test() -> None:
    assert {path for _, path, _ in health_tests()} == set(CUSTOMIZATIONS.glob("*/testdata/*"))


@pytest.mark.parametrize("test", action_tests("discoveryTests"), ids=lambda test: test["inputPath"])
def test_the_discovery_tests_of_argo_cd(test: dict[str, Any]) -> None:
    (state,) = documents(ACTION_FOLDER / test["inputPath"])

    found = Sandbox(DISCOVERY).discovery(state)

    assert found == sorted(test["result"], key=lambda action: str(action["name"]))


@pytest.mark.parametrize("test", action_tests("actionTests"), ids=lambda test: test["action"])
def test_the_action_tests_of_argo_cd(test: dict[str, str]) -> None:
    (before,) = documents(ACTION_FOLDER / test["inputPath"])
    (after,) = documents(ACTION_FOLDER / test["expectedOutputPath"])

    assert Sandbox(ACTIONS[test["action"]]).action(before) == after
    assert before != after


def test_every_action_is_tested() -> None:
    assert {test["action"] for test in action_tests("actionTests")} == ACTIONS.keys()


# The ConfigMaps.


def test_the_config_map_is_what_the_lua_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "argocd-cm.yaml"
    monkeypatch.setattr("sys.argv", ["argocd.py", str(target)])

    runpy.run_module("tools.argocd", run_name="__main__")

    assert (ARGOCD / "argocd-cm.yaml").read_text() == target.read_text(), "run `make generate`"


def test_the_config_map_holds_the_lua_where_argo_cd_looks_for_it() -> None:
    (config_map,) = documents(ARGOCD / "argocd-cm.yaml")
    prefix = "resource.customizations"
    actions = yaml.safe_load(config_map["data"][f"{prefix}.actions.intelliauth.io_Tenant"])

    assert {kind: config_map["data"][f"{prefix}.health.intelliauth.io_{kind}"] for kind in HEALTH} == HEALTH
    assert actions["discovery.lua"] == DISCOVERY
    assert {each["name"]: each["action.lua"] for each in actions["definitions"]} == ACTIONS
    assert len(config_map["data"]) == len(HEALTH) + 1


def granted() -> dict[str, set[str]]:
    """The actions that each role of Argo CD may run, by the role's name."""
    (config_map,) = documents(ARGOCD / "argocd-rbac-cm.yaml")
    lines = [line.split(", ") for line in config_map["data"]["policy.intelliauth.csv"].splitlines() if line]
    own: dict[str, set[str]] = {}
    for kind, role, *rest in lines:
        if kind == "p":
            assert rest[-2:] == ["intelliauth/*", "allow"]
            own.setdefault(role, set()).add(rest[1])
    for kind, role, *rest in reversed(lines):  # those that inherit come after those that they inherit from
        if kind == "g" and role in own:
            own[role] |= own.get(rest[0], set())
    group = "action/intelliauth.io/Tenant/"
    return {
        role.removeprefix("role:intelliauth-"): {each.removeprefix(group) for each in rights if group in each}
        for role, rights in own.items()
    }


def verbs() -> Iterator[tuple[str, set[str]]]:
    """The verbs of Kubernetes' RBAC that each of the product's roles has on Tenants."""
    for role in documents(ROOT / "manifests" / "install.yaml"):
        if role["kind"] == "ClusterRole" and role["metadata"]["name"].startswith("intelliauth-"):
            rules = [rule for rule in role["rules"] if "tenants" in rule["resources"]]
            yield (
                role["metadata"]["name"].removeprefix("intelliauth-"),
                {verb for each in rules for verb in each["verbs"]},
            )


def verbs_of(action: str) -> set[str]:
    """What admission asks for if somebody runs the action."""
    state = tenant_states()[AIMS[action]]
    after = Tenant.model_validate(Sandbox(ACTIONS[action]).action(state))
    return {verb.value for verb in ask_of(Tenant.model_validate(state), after).verbs}


@pytest.mark.parametrize("role", ["owner", "admin", "viewer"])
def test_argo_cd_lets_a_role_do_what_kubernetes_lets_it_do(role: str) -> None:
    has = dict(verbs())[role]

    assert granted()[role] == {action for action in ACTIONS if verbs_of(action) <= has}


# The example in Git.


def example() -> list[Object]:
    return [each for path in sorted((ARGOCD / "example").rglob("*.yaml")) for each in documents(path)]


def wave(manifest: Object) -> int:
    return int(manifest["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])


def test_organizations_plans_and_tenants_come_in_this_order() -> None:
    waves = {manifest["kind"]: wave(manifest) for manifest in example()}

    assert sorted(waves, key=waves.__getitem__) == ["Namespace", "Organization", "Plan", "Tenant"]
    assert len(set(waves.values())) == len(waves)


@pytest.mark.parametrize("manifest", [each for each in example() if each["kind"] != "Plan"], ids=str)
def test_what_takes_data_with_it_is_deleted_on_confirmation_only(manifest: Object) -> None:
    options = manifest["metadata"]["annotations"]["argocd.argoproj.io/sync-options"].split(",")

    assert {"Prune=confirm", "Delete=confirm"} <= set(options)


def test_nothing_in_git_is_a_request() -> None:
    names = {name for manifest in example() for name in manifest["metadata"].get("annotations", {})}

    assert not any(name.startswith("intelliauth.io/") for name in names)


def test_the_project_lets_through_what_is_in_git_and_nothing_else() -> None:
    project, application = documents(ARGOCD / "application.yaml")
    spec = project["spec"]
    kinds = {each["kind"] for each in (*spec["clusterResourceWhitelist"], *spec["namespaceResourceWhitelist"])}
    namespaces = {manifest["metadata"]["namespace"] for manifest in example() if manifest["kind"] == "Tenant"}

    assert application["spec"]["project"] == project["metadata"]["name"]
    assert kinds == {manifest["kind"] for manifest in example()}
    assert namespaces == {each["namespace"] for each in spec["destinations"]}


def test_those_who_apply_tenants_are_members() -> None:
    (members,) = (each["spec"]["members"] for each in example() if each["kind"] == "Organization")
    accounts = {(each["namespace"], each["name"]): each["role"] for each in members if each["kind"] == "ServiceAccount"}
    flux = next(each for each in documents(ROOT / "manifests/flux/tenants.yaml") if each["kind"] == "ServiceAccount")

    # The one prunes, the other runs every action that people may run.
    assert accounts.pop(("argocd", "argocd-application-controller")) == "owner"
    assert accounts.pop(("argocd", "argocd-server")) == "owner"
    assert accounts == {(flux["metadata"]["namespace"], flux["metadata"]["name"]): "admin"}


def test_flux_waits_for_all_and_deletes_no_tenant() -> None:
    found = documents(ROOT / "manifests/flux/tenants.yaml")
    kustomizations = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "Kustomization"}
    folders = {path.name for path in (ARGOCD / "example").iterdir()}

    assert {spec["path"].removeprefix("./") for spec in kustomizations.values()} == folders
    assert all(spec["wait"] for spec in kustomizations.values())
    assert {each["name"] for each in kustomizations["tenants"]["dependsOn"]} == {"organizations", "plans"}
    annotations = kustomizations["tenants"]["commonMetadata"]["annotations"]
    assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"
    assert kustomizations["organizations"]["prune"] is False


def test_intent_is_in_git_or_left_to_people() -> None:
    wanted = {
        each["metadata"]["name"]: each["spec"].get("desiredState") for each in example() if each["kind"] == "Tenant"
    }

    assert wanted == {"banking": None, "staging": DesiredState.ACTIVE.value}


if __name__ == "__main__":
    for path, document in written().items():
        (CUSTOMIZATIONS / path).parent.mkdir(parents=True, exist_ok=True)
        (CUSTOMIZATIONS / path).write_text(text_of(document))
