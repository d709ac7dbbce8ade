"""What the chart renders, over the ways to install it: rendered by Helm itself, without a cluster."""

import json
import subprocess
import tomllib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries
from tenant_operator.api.crds import render_crds
from tenant_operator.settings import PREFIX, Settings
from tools import chart as generator

CHART = generator.CHART
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
TOKEN = "0123456789abcdef01234567"
RENDERED = {"webhook": {"certificate": {"source": "cert-manager"}, "token": TOKEN}}
"""What has to be said where Helm does not talk to the cluster."""

Manifest = dict[str, Any]


def merged(base: Manifest, *others: Manifest) -> Manifest:
    """The values of all, as Helm merges them."""
    result = dict(base)
    for other in others:
        for key, value in other.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


INSTALLATIONS: dict[str, Manifest] = {
    "default": {},
    "issuer": {
        "webhook": {"certificate": {"certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "company"}}}}
    },
    "secret": {"webhook": {"certificate": {"source": "secret", "secret": {"name": "pair", "caBundle": PEM}}}},
    "outside": {
        "replicas": 0,
        "webhook": {"clientConfig": {"url": "https://operator.example:9443/", "caBundle": PEM, "user": "operator"}},
    },
    "client-certificate": {
        "webhook": {"clientCertificate": {"authority": PEM, "names": ["kube-apiserver", 'a "quoted" one']}}
    },
    "no-webhook": {"webhook": {"enabled": False}},
    "no-crds": {"crds": {"install": False}},
    "no-roles": {"roles": {"create": False, "catalogViewers": ["nobody"]}},
    "no-policy": {"admissionPolicy": {"enabled": False}},
    "no-account": {"serviceAccount": {"create": False, "name": "mine"}, "rbac": {"create": False}},
    "no-network-policy": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    "http-route": {"settings": {"routeKind": "HTTPRoute", "gatewayName": "edge", "ingressNamespace": "edge"}},
    "http-mail": {
        "settings": {"mailTransport": "http", "mailApiUrl": "https://mail.example/send"},
        "secrets": {"mailApiToken": {"name": "mail-api"}},
    },
    "digest": {"image": {"digest": f"sha256:{'0' * 64}", "tag": "ignored"}},
    "every-knob": {
        "imagePullSecrets": [{"name": "registry"}],
        "settings": {
            "smtpUsername": "postmaster",
            "smtpPort": 2525,
            "drainSeconds": 30.5,
            "concurrency": 1000000,
            "mailAllowlist": ["*@acme.example"],
            "egressDatabase": [{"to": [{"ipBlock": {"cidr": "10.20.0.0/24"}}], "ports": [{"port": 5432}]}],
            "timeouts": {"wait-ready": "15m"},
            "retries": {"apply-schema": {"maxTries": 3, "initialBackoff": "2s"}},
            "ingressClass": None,
            "mailSender": 'Acme "Tenants" <no-reply@acme.example>',
        },
        "secrets": {"smtpPassword": {"name": "smtp", "key": "pw"}, "databaseUrl": {"name": "db", "key": "dsn"}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "commonLabels": {"team": "platform"},
        "podLabels": {"color": "blue"},
        "podAnnotations": {"c": "d"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "extraVolumes": [{"name": "audit", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "audit", "mountPath": "/audit"}],
        "networkPolicy": {"extraIngress": [{"from": []}], "extraEgress": [{"to": []}]},
        "roles": {"catalogViewers": ["acme:engineers", "system:authenticated"]},
        "strategy": "Recreate",
        "podSecurityContext": {"fsGroup": 2000, "fsGroupChangePolicy": None, "supplementalGroups": [3000]},
        "fullnameOverride": "operator",
    },
}


@pytest.fixture(scope="session")
def helm() -> str:
    return binaries.clients(print)["helm"]


class Chart:
    """The chart with some values."""

    def __init__(self, helm: str, folder: Path) -> None:
        self._helm = helm
        self._values = folder / "values.yaml"
        self._rendered: dict[str, list[Manifest]] = {}

    def run(self, command: str, *arguments: str, values: Manifest) -> subprocess.CompletedProcess[str]:
        """Helm's answer; the caller judges failures."""
        self._values.write_text(yaml.safe_dump(values))
        return subprocess.run(  # noqa: S603
            [self._helm, command, *arguments, f"--values={self._values}", "--namespace=tenant-operator"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def rendered(self, values: Manifest, release: str = "tenant-operator") -> list[Manifest]:
        """What an installation consists of, `helm test` included. Rendered once, so not to be changed."""
        key = json.dumps([release, values], sort_keys=True)
        if key not in self._rendered:
            result = self.run("template", release, str(CHART), values=merged(RENDERED, values))
            assert result.returncode == 0, result.stderr
            self._rendered[key] = [each for each in yaml.safe_load_all(result.stdout) if each]
        return self._rendered[key]

    def refused(self, values: Manifest) -> str:
        """What Helm says instead of installing."""
        result = self.run("template", "tenant-operator", str(CHART), values=merged(RENDERED, values))
        assert result.returncode != 0, "it was accepted"
        return result.stderr


@pytest.fixture(scope="module")
def chart(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return Chart(helm, tmp_path_factory.mktemp("values"))


@pytest.fixture(params=INSTALLATIONS)
def objects(request: pytest.FixtureRequest, chart: Chart) -> list[Manifest]:
    """Each way to install it."""
    return chart.rendered(INSTALLATIONS[request.param])


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in objects if each["kind"] in kinds]


def only(objects: list[Manifest], kind: str) -> Manifest:
    """The only object of a kind that is not of `helm test`."""
    (found,) = [
        each for each in of_kind(objects, kind) if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    ]
    return found


def pods(objects: list[Manifest]) -> Iterator[Manifest]:
    """The spec of every pod."""
    for each in objects:
        match each:
            case {"kind": "Pod", "spec": spec}:
                yield spec
            case {"spec": {"template": {"spec": spec}}}:
                yield spec


def environment(objects: list[Manifest]) -> dict[str, Any]:
    """The operator's environment: a text, or where it comes from."""
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


@pytest.mark.parametrize("values", INSTALLATIONS)
def test_it_passes_the_linter(chart: Chart, values: str) -> None:
    result = chart.run("lint", str(CHART), "--strict", values=merged(RENDERED, INSTALLATIONS[values]))

    assert result.returncode == 0, result.stdout + result.stderr


def test_it_has_the_operator_s_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    with (generator.ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]

    assert (about["version"], about["appVersion"]) == (version, version)


def test_every_pod_is_restricted(objects: list[Manifest]) -> None:
    specs = list(pods(objects))

    assert specs
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsGroup"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
        assert {next(iter(volume.keys() - {"name"})) for volume in spec["volumes"]} <= {
            "emptyDir",
            "secret",
            "configMap",
        }


def test_a_hung_process_does_not_have_the_time_of_one_that_drains(objects: list[Manifest]) -> None:
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    for probe in ("livenessProbe", "startupProbe"):
        grace = container[probe]["terminationGracePeriodSeconds"]
        assert pre_stop < grace <= 10 < spec["terminationGracePeriodSeconds"]


def test_the_test_asks_every_pod_what_it_needs(chart: Chart) -> None:
    objects = chart.rendered({})
    (service,) = [each for each in of_kind(objects, "Service") if each["metadata"]["name"].endswith("-health")]
    (pod,) = of_kind(objects, "Pod")
    found = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}

    assert found["HEALTH_HOST"] == f"{service['metadata']['name']}.tenant-operator.svc"
    # Each pod by its own address, and one that is not ready above all.
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)


def test_no_secret_is_made_of_values_but_the_token(objects: list[Manifest]) -> None:
    made = {each["metadata"]["name"]: each["stringData"] for each in of_kind(objects, "Secret")}

    names = {webhook["clientConfig"].get("service", {}).get("name") for webhook in webhooks(objects).values()}
    prefix = "operator" if "operator" in names else "tenant-operator"
    assert made == ({f"{prefix}-webhook-token": {"token": TOKEN}} if webhooks(objects) else {})


def test_everything_names_its_namespace_and_its_release(objects: list[Manifest]) -> None:
    everywhere = {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for each in objects:
        metadata = each["metadata"]
        assert metadata.get("namespace") == (None if each["kind"] in everywhere else "tenant-operator"), metadata
        assert metadata["labels"]["app.kubernetes.io/instance"] == "tenant-operator"
        # Helm adds what is Helm's; the plain install is not.
        assert not metadata["labels"].keys() & {"app.kubernetes.io/managed-by", "helm.sh/chart"}


def test_every_variable_is_a_setting(objects: list[Manifest]) -> None:
    names = {name for name in environment(objects) if name.startswith(PREFIX)}

    assert {name.removeprefix(PREFIX).lower() for name in names} <= Settings.model_fields.keys()


def test_settings_become_what_the_operator_reads(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment(chart.rendered(INSTALLATIONS["every-knob"]))
    for name, value in found.items():
        monkeypatch.setenv(name, value if isinstance(value, str) else TOKEN)

    read = Settings()  # type: ignore[call-arg]  # the environment provides what is required

    assert (read.smtp_username, read.smtp_port, read.drain_seconds) == ("postmaster", 2525, 30.5)
    assert (read.concurrency, read.mail_allowlist) == (1000000, ("*@acme.example",))
    assert (read.timeouts["wait-ready"].total_seconds(), read.retries["apply-schema"].max_tries) == (900, 3)
    assert read.egress_database is not None
    assert [each.to_wire()["to"] for each in read.egress_database] == [[{"ipBlock": {"cidr": "10.20.0.0/24"}}]]
    assert read.mail_sender == 'Acme "Tenants" <no-reply@acme.example>'
    assert read.ingress_class is None
    assert "TENANT_OPERATOR_INGRESS_CLASS" not in found


def test_every_setting_can_be_said(chart: Chart) -> None:
    samples = {"string": "x", "integer": 7, "number": 7.5, "array": ["x"], "object": {}}
    schemas = generator.settings_schema()["properties"]
    wanted = {name: schema.get("default") or samples[schema["type"][0]] for name, schema in schemas.items()}
    wanted["egressDatabase"] = wanted["egressDns"]
    references = {"secrets": {"smtpPassword": {"name": "smtp"}}}

    found = environment(chart.rendered(merged({"settings": wanted}, references)))

    said = {name.removeprefix(PREFIX).lower() for name in found if name.startswith(PREFIX)}
    assert set(generator.setting_names()) <= said


def test_a_setting_is_in_the_values_a_secret_or_decided_by_the_chart() -> None:
    assert Settings.model_fields.keys() >= generator.SECRETS
    assert Settings.model_fields.keys() >= generator.DECIDED
    assert not [name for name in generator.setting_names() if "password" in name or "token" in name]


def test_secrets_are_references(chart: Chart) -> None:
    found = environment(chart.rendered(INSTALLATIONS["every-knob"]))

    assert found["TENANT_OPERATOR_DATABASE_URL"] == {"secretKeyRef": {"name": "db", "key": "dsn"}}
    assert found["TENANT_OPERATOR_SMTP_PASSWORD"] == {"secretKeyRef": {"name": "smtp", "key": "pw"}}
    mail = environment(chart.rendered(INSTALLATIONS["http-mail"]))
    assert mail["TENANT_OPERATOR_MAIL_API_TOKEN"] == {"secretKeyRef": {"name": "mail-api", "key": "token"}}
    assert "TENANT_OPERATOR_SMTP_PASSWORD" not in mail


def test_the_operator_is_told_of_the_chart_s_responder(objects: list[Manifest]) -> None:
    found = environment(objects)
    (service,) = [each for each in of_kind(objects, "Service") if each["metadata"]["name"].endswith("-paused")]

    assert found["TENANT_OPERATOR_RESPONDER_SERVICE"] == service["metadata"]["name"]
    assert found["TENANT_OPERATOR_RESPONDER_NAMESPACE"] == service["metadata"]["namespace"]
    assert found["TENANT_OPERATOR_RESPONDER_PORT"] == str(service["spec"]["ports"][0]["port"])


def test_the_ports_are_those_that_the_operator_listens_on(chart: Chart) -> None:
    objects = chart.rendered({})
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    listened = ("health_port", "paused_port", "webhook_port")
    assert [ports["health"], ports["paused"], ports["webhook"]] == [
        Settings.model_fields[name].default for name in listened
    ]
    targets = {port["targetPort"] for each in of_kind(objects, "Service") for port in each["spec"]["ports"]}
    assert targets == {"health", "paused", "webhook"}


def test_services_lead_to_the_operator_and_nowhere_else(objects: list[Manifest]) -> None:
    operator = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    others = [each["metadata"]["labels"] for each in of_kind(objects, "Pod")]

    selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, "PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    assert selectors
    for selector in selectors:
        assert selector.items() <= operator.items()
        assert not [labels for labels in others if selector.items() <= labels.items()]


def test_the_names_of_the_default_installation(chart: Chart) -> None:
    objects = chart.rendered({})

    for kind in ("Deployment", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy", "Role", "RoleBinding"):
        assert only(objects, kind)["metadata"]["name"] == "tenant-operator"
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    assert {
        ("Service", "tenant-operator"),
        ("Service", "tenant-operator-paused"),
        ("ClusterRole", "tenant-operator"),
        ("ClusterRoleBinding", "tenant-operator"),
        ("MutatingWebhookConfiguration", "tenant-operator"),
        ("ValidatingWebhookConfiguration", "tenant-operator"),
    } <= names


def test_another_release_is_named_after_it(chart: Chart) -> None:
    assert only(chart.rendered({}, release="blue"), "Deployment")["metadata"]["name"] == "blue-tenant-operator"
    overridden = chart.rendered({"fullnameOverride": "green"}, release="blue")
    assert only(overridden, "Deployment")["metadata"]["name"] == "green"


def test_the_image(chart: Chart) -> None:
    def image(values: Manifest) -> str:
        return str(next(pods(chart.rendered(values)))["containers"][0]["image"])

    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert image({}) == f"tenant-operator:{version}"
    assert image({"image": {"repository": "localhost:5001/to", "tag": "dev"}}) == "localhost:5001/to:dev"
    assert image(INSTALLATIONS["digest"]) == f"tenant-operator@sha256:{'0' * 64}"


def test_an_update_never_leaves_a_moment_without_an_operator(chart: Chart) -> None:
    deployment = only(chart.rendered({}), "Deployment")["spec"]

    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    pause = deployment["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = Settings.model_fields["drain_seconds"].default
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] >= pause + drain + 20


def test_a_volume_that_can_be_mounted_once_is_let_go_first(chart: Chart) -> None:
    assert only(chart.rendered(INSTALLATIONS["every-knob"]), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_the_group_of_volumes_can_be_chosen_and_the_rest_stays(chart: Chart) -> None:
    def context(values: Manifest) -> Manifest:
        found: Manifest = only(chart.rendered(values), "Deployment")["spec"]["template"]["spec"]["securityContext"]
        return found

    fixed = {"runAsNonRoot": True, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    assert context({}) == {**fixed, "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"}
    assert context(INSTALLATIONS["every-knob"]) == {**fixed, "fsGroup": 2000, "supplementalGroups": [3000]}
    # Some platforms choose the group themselves.
    del fixed["runAsGroup"]
    nothing = dict.fromkeys(("runAsGroup", "fsGroup", "fsGroupChangePolicy"))
    assert context({"podSecurityContext": nothing}) == fixed


def test_a_spread_constraint_counts_the_operator_s_pods(chart: Chart) -> None:
    deployment = only(chart.rendered({}), "Deployment")["spec"]
    (constraint,) = deployment["template"]["spec"]["topologySpreadConstraints"]

    assert constraint["labelSelector"] == deployment["selector"]


def test_a_disruption_budget_lets_the_only_pod_move(chart: Chart) -> None:
    assert only(chart.rendered({}), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


# The kinds.


def test_the_kinds_are_those_of_the_models(chart: Chart) -> None:
    found = {each["metadata"]["name"]: each for each in of_kind(chart.rendered({}), "CustomResourceDefinition")}
    wanted = {each["metadata"]["name"]: each for each in map(yaml.safe_load, render_crds().values())}

    assert found.keys() == wanted.keys()
    for name, crd in found.items():
        assert crd["spec"] == wanted[name]["spec"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_kinds_can_be_left_to_go_or_be_left_out(chart: Chart) -> None:
    going = of_kind(chart.rendered({"crds": {"keep": False}}), "CustomResourceDefinition")

    assert [each["metadata"].get("annotations") for each in going] == [None, None, None]
    assert of_kind(chart.rendered(INSTALLATIONS["no-crds"]), "CustomResourceDefinition") == []


# Who may do what.


def rules(objects: list[Manifest]) -> list[Manifest]:
    """The operator's own rules."""
    named = [each for each in of_kind(objects, "ClusterRole", "Role") if each["metadata"]["name"] == "tenant-operator"]
    return [rule for each in named for rule in each["rules"]]


def test_nothing_is_granted_by_wildcard(objects: list[Manifest]) -> None:
    for each in of_kind(objects, "ClusterRole", "Role"):
        for rule in each["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not {"escalate", "impersonate", "deletecollection"} & set(rule["verbs"])


def test_the_operator_reaches_no_secret_but_those_of_tenants(chart: Chart) -> None:
    reading = {"get", "list", "watch", "update", "patch", "delete"}
    on_secrets = [rule for rule in rules(chart.rendered({})) if "secrets" in rule["resources"]]

    assert {verb for rule in on_secrets if "resourceNames" not in rule for verb in rule["verbs"]} == {"create"}
    assert [rule["resourceNames"] for rule in on_secrets if reading & set(rule["verbs"])] == [
        ["database-credentials", "identity-credentials", "identity-signing-key"]
    ]


def test_the_operator_may_grant_the_roles_of_members_and_no_other(chart: Chart) -> None:
    granting = [rule for rule in rules(chart.rendered({})) if "bind" in rule["verbs"]]

    assert [rule["resourceNames"] for rule in granting] == [
        ["intelliauth-owner", "intelliauth-admin", "intelliauth-viewer"]
    ]
    writing = [rule for rule in rules(chart.rendered({})) if {"clusterroles", "roles"} & set(rule["resources"])]
    assert writing == granting


def test_every_rule_says_why() -> None:
    explained: set[str] = set()
    above = ""
    for line in (CHART / "templates" / "rbac.yaml").read_text().splitlines():
        if line.startswith("  - apiGroups:") and above.startswith("  #"):
            explained = set()
        if line.startswith("    resources:"):
            resources = set(yaml.safe_load(line)["resources"])
            # A rule without words goes on with what those of the rule before it are about.
            assert not explained or resources <= explained, line
            explained = explained or resources
        above = line
    assert explained


def test_roles_are_bound_to_the_account_that_the_pod_uses(chart: Chart) -> None:
    objects = chart.rendered({"serviceAccount": {"name": "mine"}})
    account = only(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]

    assert only(objects, "ServiceAccount")["metadata"]["name"] == account == "mine"
    bindings = list(of_kind(objects, "ClusterRoleBinding", "RoleBinding"))
    own = [each for each in bindings if each["metadata"]["name"] == "tenant-operator"]
    assert [each["subjects"] for each in own] == [
        [{"kind": "ServiceAccount", "name": "mine", "namespace": "tenant-operator"}]
    ] * 2


def test_without_its_own_roles_only_those_of_members_are_there(chart: Chart) -> None:
    objects = chart.rendered(INSTALLATIONS["no-account"])

    assert rules(objects) == []
    assert len(of_kind(objects, "ClusterRole")) == 4
    assert only(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
    assert [each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")] == ["tenant-operator-test"]


def test_the_members_roles_can_be_left_out(chart: Chart) -> None:
    found = of_kind(chart.rendered(INSTALLATIONS["no-roles"]), "ClusterRole", "ClusterRoleBinding")

    assert {each["metadata"]["name"] for each in found} == {"tenant-operator"}


def test_groups_read_the_plans_if_they_are_named(chart: Chart) -> None:
    def viewers(values: Manifest) -> list[tuple[str, str]]:
        found = of_kind(chart.rendered(values), "ClusterRoleBinding")
        bound = [each for each in found if each["roleRef"]["name"] == "intelliauth-catalog-viewer"]
        return [(subject["kind"], subject["name"]) for each in bound for subject in each["subjects"]]

    assert viewers({}) == []
    assert viewers(INSTALLATIONS["every-knob"]) == [("Group", "acme:engineers"), ("Group", "system:authenticated")]
    assert viewers(INSTALLATIONS["no-roles"]) == []


# Where it may do it.


def policy(objects: list[Manifest]) -> Manifest:
    spec: Manifest = only(objects, "ValidatingAdmissionPolicy")["spec"]
    return spec


def test_the_policy_knows_every_kind_that_may_be_written_in_all_namespaces(chart: Chart) -> None:
    objects = chart.rendered({})
    (role,) = [each for each in of_kind(objects, "ClusterRole") if each["metadata"]["name"] == "tenant-operator"]
    writing = {"create", "update", "patch", "delete"}
    written = {
        (group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if writing & set(rule["verbs"])
    }
    ruled = {
        (group, resource)
        for rule in policy(objects)["matchConstraints"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }

    # The product's own kinds, what is told about them, and a question.
    elsewhere = {pair for pair in written if pair[0] in ("intelliauth.io", "events.k8s.io", "authorization.k8s.io")}
    # RBAC binds these to the release's namespace, the policy what they say.
    grants = ("gateway.networking.k8s.io", "referencegrants")
    assert (written - elsewhere) | {grants} == ruled


def test_the_policy_holds_for_the_operator_alone(chart: Chart) -> None:
    def held(values: Manifest) -> list[str]:
        (condition,) = policy(chart.rendered(values))["matchConditions"]
        names: list[str] = json.loads(condition["expression"].removeprefix("request.userInfo.username in "))
        return names

    user = "system:serviceaccount:tenant-operator:{}"
    assert held({}) == [user.format("tenant-operator")]
    assert held({"serviceAccount": {"name": "mine"}}) == [user.format("mine")]
    # A person keeps their own rights.
    assert held(INSTALLATIONS["outside"]) == [user.format("tenant-operator")]
    account = {"clientConfig": {**INSTALLATIONS["outside"]["webhook"]["clientConfig"], "user": user.format("outside")}}
    assert held({"webhook": account}) == [user.format("tenant-operator"), user.format("outside")]


def test_the_policy_is_in_force_without_exception(chart: Chart) -> None:
    objects = chart.rendered({})

    assert policy(objects)["failurePolicy"] == "Fail"
    bound = only(objects, "ValidatingAdmissionPolicyBinding")["spec"]
    name = only(objects, "ValidatingAdmissionPolicy")["metadata"]["name"]
    assert bound == {"policyName": name, "validationActions": ["Deny"]}


def test_the_policy_can_be_left_out(chart: Chart) -> None:
    found = chart.rendered(INSTALLATIONS["no-policy"])

    assert of_kind(found, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding") == []


# The webhooks.


def webhooks(objects: list[Manifest]) -> dict[str, Manifest]:
    found = of_kind(objects, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    return {webhook["name"].partition(".")[0]: webhook for each in found for webhook in each["webhooks"]}


def test_the_api_server_asks_about_these_writes(chart: Chart) -> None:
    asked = {
        name: ({resource for rule in each["rules"] for resource in rule["resources"]}, each["rules"][0]["operations"])
        for name, each in webhooks(chart.rendered({})).items()
    }

    assert asked == {
        "stamp-tenant": ({"tenants"}, ["CREATE", "UPDATE"]),
        "check-tenant": ({"tenants"}, ["CREATE", "UPDATE", "DELETE"]),
        "check-plan": ({"plans"}, ["DELETE"]),
        "check-organization": ({"organizations"}, ["CREATE", "UPDATE", "DELETE"]),
    }


def test_a_members_role_can_be_taken_back_while_the_operator_is_away(chart: Chart) -> None:
    (condition,) = webhooks(chart.rendered({}))["check-organization"]["matchConditions"]

    assert condition["expression"].startswith('request.operation != "UPDATE" ||')
    assert "members" not in condition["expression"]


def test_nobody_is_asked_about_the_operator_s_own_writes(chart: Chart) -> None:
    def exempt(values: Manifest) -> set[str]:
        hooks = webhooks(chart.rendered(values))
        conditions = [each for name in ("stamp-tenant", "check-tenant") for each in hooks[name]["matchConditions"]]
        return {each["expression"] for each in conditions if each["name"] == "not-the-operator"}

    user = "system:serviceaccount:tenant-operator:{}"
    assert exempt({}) == {f'request.userInfo.username != "{user.format("tenant-operator")}"'}
    mine = {"serviceAccount": {"name": "mine"}}
    assert exempt(mine) == {f'request.userInfo.username != "{user.format("mine")}"'}
    assert exempt(INSTALLATIONS["outside"]) == {'request.userInfo.username != "operator"'}


def test_each_webhook_calls_the_handler_of_its_name(objects: list[Manifest]) -> None:
    for name, each in webhooks(objects).items():
        match each["clientConfig"]:
            case {"service": {"name": service, "namespace": "tenant-operator", "port": 9443, "path": path}}:
                assert path == f"/{TOKEN}/{name}"
                assert service in {found["metadata"]["name"] for found in of_kind(objects, "Service")}
            case {"url": url}:
                assert url == f"https://operator.example:9443/{TOKEN}/{name}"
            case other:
                raise AssertionError(other)
        assert (each["failurePolicy"], each["timeoutSeconds"], each["sideEffects"]) == ("Fail", 5, "None")


def test_the_operator_has_the_token_of_the_paths_and_goes_with_it(chart: Chart) -> None:
    def annotation(values: Manifest) -> str:
        metadata = only(chart.rendered(values), "Deployment")["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["intelliauth.io/webhook-token"])

    reference = environment(chart.rendered({}))["TENANT_OPERATOR_WEBHOOK_TOKEN"]["secretKeyRef"]
    (secret,) = of_kind(chart.rendered({}), "Secret")
    assert reference == {"name": secret["metadata"]["name"], "key": "token"}
    assert annotation({}) != annotation({"webhook": {"token": TOKEN[::-1]}})
    assert TOKEN not in json.dumps(only(chart.rendered({}), "Deployment"))
    digits = {"webhook": {"token": "0" * 24}}  # which YAML would take for a number
    assert [each["stringData"] for each in of_kind(chart.rendered(digits), "Secret")] == [{"token": "0" * 24}]


def test_a_client_certificate_is_asked_for_where_there_is_an_authority(chart: Chart) -> None:
    objects = chart.rendered(INSTALLATIONS["client-certificate"])
    found = environment(objects)
    authority = next(each for each in of_kind(objects, "ConfigMap") if "ca.crt" in each["data"])
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if "configMap" in each]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]

    assert json.loads(found["TENANT_OPERATOR_WEBHOOK_CLIENT_NAMES"]) == ["kube-apiserver", 'a "quoted" one']
    assert found["TENANT_OPERATOR_WEBHOOK_CLIENT_CA"] == f"{mount['mountPath']}/ca.crt"
    assert volume["configMap"]["name"] == authority["metadata"]["name"]
    assert authority["data"] == {"ca.crt": PEM}
    assert not [name for name in environment(chart.rendered({})) if "CLIENT" in name]


def test_a_token_cannot_be_kept_without_a_cluster(chart: Chart) -> None:
    words = chart.refused({"webhook": {"token": ""}})

    assert "set webhook.token to one of your own: openssl rand -hex 24" in words


def test_cert_manager_makes_the_certificate_that_the_pod_mounts(chart: Chart) -> None:
    objects = chart.rendered({})
    certificate = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Certificate")}
    (volume,) = [each for each in next(pods(objects))["volumes"] if "secret" in each]

    serving = certificate["tenant-operator-webhook"]
    # Not that of a certificate that the chart made: the source can change, and neither is in the other's way.
    assert serving["secretName"] == volume["secret"]["secretName"] == "tenant-operator-webhook-tls"
    assert "tenant-operator.tenant-operator.svc" in serving["dnsNames"]
    authority = certificate["tenant-operator-webhook-authority"]
    issuers = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Issuer")}
    assert issuers[serving["issuerRef"]["name"]] == {"ca": {"secretName": authority["secretName"]}}
    assert issuers[authority["issuerRef"]["name"]] == {"selfSigned": {}}
    for each in of_kind(objects, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        injected = each["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
        assert injected == "tenant-operator/tenant-operator-webhook"


def test_an_issuer_that_exists_is_used(chart: Chart) -> None:
    objects = chart.rendered(INSTALLATIONS["issuer"])

    assert of_kind(objects, "Issuer") == []
    assert only(objects, "Certificate")["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "company"}


def test_a_secret_that_exists_is_used(chart: Chart) -> None:
    objects = chart.rendered(INSTALLATIONS["secret"])
    (volume,) = [each for each in next(pods(objects))["volumes"] if "secret" in each]

    assert volume["secret"]["secretName"] == "pair"
    assert of_kind(objects, "Issuer", "Certificate") == []
    trusted = {b64decode(each["clientConfig"]["caBundle"]).decode() for each in webhooks(objects).values()}
    assert trusted == {PEM}


def test_an_operator_outside_needs_no_certificate_here(chart: Chart) -> None:
    objects = chart.rendered(INSTALLATIONS["outside"])

    assert of_kind(objects, "Issuer", "Certificate", "Pod") == []
    assert [each["metadata"]["name"] for each in of_kind(objects, "Service")] == ["tenant-operator-paused"]
    assert not [name for name in environment(objects) if "WEBHOOK" in name]
    assert only(objects, "Deployment")["spec"]["replicas"] == 0


def test_webhooks_that_are_off_leave_nothing(chart: Chart) -> None:
    objects = chart.rendered(INSTALLATIONS["no-webhook"])

    assert webhooks(objects) == {}
    assert of_kind(objects, "Issuer", "Certificate") == []
    assert not [name for name in environment(objects) if "WEBHOOK" in name]


def test_a_certificate_cannot_be_kept_without_a_cluster(chart: Chart) -> None:
    words = chart.refused({"webhook": {"certificate": {"source": "chart"}}})

    assert "webhook.certificate.source=chart" in words
    assert "cert-manager" in words


# Who may reach whom.


def test_the_network_policy_knows_the_ports_and_the_ingress_controller(chart: Chart) -> None:
    def ports(rules: list[Manifest]) -> set[Any]:
        return {port["port"] for rule in rules for port in rule.get("ports", ())}

    policy = only(chart.rendered({}), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert ports(policy["ingress"]) == {"health", "webhook", "paused"}
    (health,) = [rule for rule in policy["ingress"] if ports([rule]) == {"health"}]
    (tester,) = health["from"]
    assert tester["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert ports(policy["egress"]) == {53, 443, 6443, 5432, Settings.model_fields["smtp_port"].default}
    (responder,) = [rule for rule in policy["ingress"] if ports([rule]) == {"paused"}]
    name = "kubernetes.io/metadata.name"
    (controller, _) = responder["from"]
    default = Settings.model_fields["ingress_namespace"].default
    assert controller["namespaceSelector"]["matchLabels"] == {name: default}

    other = only(chart.rendered(INSTALLATIONS["http-route"]), "NetworkPolicy")["spec"]
    (responder,) = [rule for rule in other["ingress"] if ports([rule]) == {"paused"}]
    assert responder["from"][0]["namespaceSelector"]["matchLabels"] == {name: "edge"}
    mail = only(chart.rendered(INSTALLATIONS["http-mail"]), "NetworkPolicy")["spec"]
    assert ports(mail["egress"]) == {53, 443, 6443, 5432}
    elsewhere = merged(INSTALLATIONS["http-mail"], {"networkPolicy": {"apiServerPorts": [6443]}})
    assert ports(only(chart.rendered(elsewhere), "NetworkPolicy")["spec"]["egress"]) == {53, 443, 6443, 5432}
    assert 2525 in ports(only(chart.rendered(INSTALLATIONS["every-knob"]), "NetworkPolicy")["spec"]["egress"])


def test_the_network_policy_can_be_left_out(chart: Chart) -> None:
    assert of_kind(chart.rendered(INSTALLATIONS["no-network-policy"]), "NetworkPolicy", "PodDisruptionBudget") == []


# What Helm refuses.


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 1}, "additional properties 'replica' not allowed"),
        ({"replicas": 2}, "'/replicas': maximum: got 2, want 1"),
        ({"replicas": "1"}, "'/replicas': got string, want integer"),
        ({"image": {"digest": "sha256:abc"}}, "'/image/digest': 'sha256:abc' does not match"),
        ({"settings": {"bsaeDomain": "a"}}, "'/settings': additional properties 'bsaeDomain' not allowed"),
        (
            {"settings": {"databaseUrl": "postgresql://"}},
            "'/settings': additional properties 'databaseUrl' not allowed",
        ),
        ({"settings": {"healthPort": 1}}, "'/settings': additional properties 'healthPort' not allowed"),
        ({"settings": {"concurrency": "many"}}, "'/settings/concurrency': got string, want integer or null"),
        ({"settings": {"routeKind": "Route"}}, "'/settings/routeKind': value must be one of 'Ingress', 'HTTPRoute'"),
        ({"settings": {"timeouts": {"wait-redy": "5m"}}}, "'/settings/timeouts': additional properties 'wait-redy'"),
        ({"settings": {"egressDns": [{"ports": [{"port": 53}]}]}}, "'/settings/egressDns/0': missing property 'to'"),
        ({"settings": {"mailTransport": "http"}}, "'/settings': missing property 'mailApiUrl'"),
        ({"settings": {"mailTransport": "http"}}, "'/secrets/mailApiToken/name': minLength"),
        ({"settings": {"smtpUsername": "joe"}}, "'/secrets/smtpPassword/name': minLength"),
        ({"secrets": {"smtpPassword": {"name": "smtp"}}}, "'/settings': missing property 'smtpUsername'"),
        ({"secrets": {"databaseUrl": {"value": "postgresql://"}}}, "additional properties 'value' not allowed"),
        ({"webhook": {"certificate": {"source": "self"}}}, "'/webhook/certificate/source': value must be one of"),
        ({"webhook": {"certificate": {"source": "secret"}}}, "'/webhook/certificate/secret/caBundle': minLength"),
        ({"webhook": {"token": "short"}}, "'/webhook/token': 'short' does not match"),
        ({"webhook": {"token": "Capital-letters-are-no-path"}}, "'/webhook/token': 'Capital-letters-are-no-path' does"),
        ({"webhook": {"token": "../../../../../../../../"}}, "'/webhook/token': '../../"),
        ({"webhook": {"clientCertificate": {"authority": "x"}}}, "'/webhook/clientCertificate/authority': 'x' does"),
        ({"webhook": {"clientCertificate": {"names": [""]}}}, "'/webhook/clientCertificate/names/0': minLength"),
        ({"webhook": {"clientConfig": {"url": "http://here"}}}, "'/webhook/clientConfig/url': 'http://here' does not"),
        ({"webhook": {"timeoutSeconds": 3}}, "'/webhook/timeoutSeconds': minimum: got 3, want 5"),
        ({"networkPolicy": {"apiServerPorts": []}}, "'/networkPolicy/apiServerPorts': minItems"),
        ({"serviceAccount": {"create": False}}, "'/serviceAccount/name': minLength: got 0, want 1"),
        ({"roles": {"catalogViewers": [""]}}, "'/roles/catalogViewers/0': minLength"),
        ({"strategy": "OnDelete"}, "'/strategy': value must be one of 'RollingUpdate', 'Recreate'"),
        ({"podSecurityContext": {"runAsNonRoot": False}}, "additional properties 'runAsNonRoot' not allowed"),
        ({"podSecurityContext": {"seccompProfile": {}}}, "additional properties 'seccompProfile' not allowed"),
        ({"podSecurityContext": {"runAsUser": 0}}, "'/podSecurityContext/runAsUser': minimum: got 0, want 1"),
        *(
            ({labels: {f"app.kubernetes.io/{key}": "x"}}, f"invalid propertyName 'app.kubernetes.io/{key}'")
            for labels in ("commonLabels", "podLabels")
            for key in ("name", "instance", "component", "version", "part-of", "managed-by")
        ),
        ({"settings": {"drainSeconds": 50}}, "terminationGracePeriodSeconds (60) must be at least 25 more"),
        ({"extraEnv": [{"name": "TENANT_OPERATOR_RESYNC"}]}, "TENANT_OPERATOR_RESYNC is a setting"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(chart: Chart, values: Manifest, words: str) -> None:
    said = chart.refused(values)

    # The order in which types are listed varies from run to run.
    assert words in said.replace("want null or integer", "want integer or null")


# What is generated.


@pytest.mark.parametrize("name", render_crds())
def test_the_chart_s_copy_of_a_kind_is_what_the_models_say(name: str) -> None:
    assert (CHART / "files" / "crds" / name).read_text(encoding="utf-8") == render_crds()[name], "run `make generate`"


def test_the_schema_the_tables_and_the_version_are_up_to_date() -> None:
    described = list(generator.values((CHART / "values.yaml").read_text(encoding="utf-8")))
    for file, change in (
        ("values.schema.json", lambda text: generator.values_schema(text, described)),
        ("README.md", lambda text: generator.readme(text, described)),
        ("Chart.yaml", generator.versioned),
    ):
        text = (CHART / file).read_text(encoding="utf-8")
        assert change(text) == text, f"{file}: run `make generate`"


def test_the_plain_install_is_what_the_chart_renders(helm: str) -> None:
    assert generator.INSTALL.read_text(encoding="utf-8") == generator.install(helm), "run `make generate`"


def test_the_plain_install_is_complete_and_in_order() -> None:
    objects = list(yaml.safe_load_all(generator.INSTALL.read_text(encoding="utf-8")))
    kinds = [each["kind"] for each in objects]

    assert kinds[:4] == ["Namespace", *["CustomResourceDefinition"] * 3]
    assert kinds.count("Deployment") == 1
    namespace = objects[0]["metadata"]
    assert namespace["name"] == "tenant-operator"
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace", "tenant-operator") for each in objects} == {"tenant-operator"}
    assert not [each for each in objects if each["metadata"]["name"].endswith("-test")]
