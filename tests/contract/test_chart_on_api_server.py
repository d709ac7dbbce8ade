"""The chart in a real cluster: installed where Pod Security is enforced, upgraded, uninstalled, and installed again."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from base64 import b64decode
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from cryptography import x509

from devcluster import ports
from devcluster.platform import Webhook
from tests.contract.helm_cluster import (
    CHART,
    KINDS,
    NAMESPACE,
    QUIET,
    RELEASE,
    ROOT,
    SAMPLES,
    Cluster,
    Manifest,
    placed,
    until,
)


@pytest.fixture
def cluster(helm_cluster: Cluster) -> Cluster:
    return helm_cluster


def certificate(cluster: Cluster) -> Manifest:
    """The content of the Secret with the webhooks' certificate."""
    data: Manifest = cluster.read("secret", "tenant-operator-webhook", f"--namespace={NAMESPACE}")["data"]
    return data


def trusted(cluster: Cluster) -> set[str]:
    """The authorities by which the API server knows the operator."""
    found = cluster.read("mutatingwebhookconfigurations,validatingwebhookconfigurations")["items"]
    assert len(found) == 2
    return {webhook["clientConfig"]["caBundle"] for each in found for webhook in each["webhooks"]}


def test_it_runs_under_pod_security_restricted(cluster: Cluster) -> None:
    installed = cluster.try_helm("install", RELEASE, str(CHART))
    assert installed.returncode == 0, installed.stderr
    assert "PodSecurity" not in installed.stderr

    where = f"--namespace={NAMESPACE}"
    cluster.kubectl("wait", "--for=condition=Available", "deployment/tenant-operator", where, "--timeout=60s")

    def addresses(service: str) -> list[str]:
        slices = cluster.read("endpointslices", where, f"--selector=kubernetes.io/service-name={service}")["items"]
        return [
            address for each in slices for endpoint in each.get("endpoints") or () for address in endpoint["addresses"]
        ]

    for name in ("tenant-operator", "tenant-operator-paused"):
        until(lambda name=name: len(addresses(name)) == 1, f"one pod answers for {name}")  # type: ignore[misc]
    assert "The Secret with the database's URL is there" in installed.stdout
    assert "kubectl apply -f manifests/samples/organization.yaml" in installed.stdout

    # Helm would wait for the test's pod to end, and no container runs here.
    for hook in yaml.safe_load_all(cluster.helm("get", "hooks", RELEASE)):
        applied = cluster.run(str(cluster.environment.kubectl), "apply", "--filename=-", stdin=json.dumps(hook))
        assert applied.returncode == 0, applied.stderr
        assert "PodSecurity" not in applied.stderr


def shake_hands(made: Manifest, folder: Path) -> None:
    """TLS, as the API server and the operator speak it. Raises SSLError."""
    for name, content in made.items():
        (folder / name).write_bytes(b64decode(content))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    client = ssl.create_default_context(cafile=folder / "ca.crt")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=f"tenant-operator.{NAMESPACE}.svc")
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, answering, asking, answering):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert asking.getpeercert()


def test_its_certificate_is_good_for_the_service_and_kept_over_upgrades(cluster: Cluster, tmp_path: Path) -> None:
    cluster.helm("install", RELEASE, str(CHART))
    made = certificate(cluster)
    authority, serving = (x509.load_pem_x509_certificate(b64decode(made[key])) for key in ("ca.crt", "tls.crt"))
    serving.verify_directly_issued_by(authority)
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert f"tenant-operator.{NAMESPACE}.svc" in names.get_values_for_type(x509.DNSName)
    assert trusted(cluster) == {made["ca.crt"]}
    shake_hands(made, tmp_path)

    cluster.helm("upgrade", RELEASE, str(CHART), "--set=podAnnotations.upgraded=yes")
    assert certificate(cluster) == made
    assert trusted(cluster) == {made["ca.crt"]}
    deployment = cluster.read("deployment", "tenant-operator", f"--namespace={NAMESPACE}")
    assert deployment["spec"]["template"]["metadata"]["annotations"]["upgraded"] == "yes"

    cluster.kubectl("delete", "secret", "tenant-operator-webhook", f"--namespace={NAMESPACE}")
    cluster.helm("upgrade", RELEASE, str(CHART))
    assert certificate(cluster)["tls.crt"] != made["tls.crt"]
    assert trusted(cluster) == {certificate(cluster)["ca.crt"]}

    cluster.helm("uninstall", RELEASE)
    assert cluster.names("secrets", f"--namespace={NAMESPACE}") == {"tenant-operator-database"}
    assert cluster.names("mutatingwebhookconfigurations,validatingwebhookconfigurations") == set()


def stub_of(plural: str, kind: str) -> Manifest:
    """A kind of cert-manager's that holds anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.cert-manager.io"},
        "spec": {
            "group": "cert-manager.io",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}},
            ],
        },
    }


def play_cert_manager(cluster: Cluster, made: Manifest) -> None:
    """Make the Secret that the Certificate names, and tell the API server of its authority."""
    where = f"--namespace={NAMESPACE}"
    certificate = cluster.read("certificates.cert-manager.io", "tenant-operator-webhook", where)
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": made}
    name = certificate["spec"]["secretName"]
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(placed(secret, name, NAMESPACE)))
    for each in cluster.read("mutatingwebhookconfigurations,validatingwebhookconfigurations")["items"]:
        assert each["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].endswith("/tenant-operator-webhook")
        patch = [
            {"op": "add", "path": f"/webhooks/{place}/clientConfig/caBundle", "value": made["ca.crt"]}
            for place in range(len(each["webhooks"]))
        ]
        kind = (each["kind"].lower(), each["metadata"]["name"], "--field-manager=cert-manager-cainjector")
        cluster.kubectl("patch", *kind, "--type=json", f"--patch={json.dumps(patch)}")


def test_the_source_of_the_certificate_can_change_there_and_back(cluster: Cluster) -> None:
    stubs = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [stub_of("issuers", "Issuer"), stub_of("certificates", "Certificate")],
        }
    )
    where = f"--namespace={NAMESPACE}"

    def mounted() -> str:
        pod = cluster.read("deployment", "tenant-operator", where)["spec"]["template"]["spec"]
        (volume,) = [each["secret"] for each in pod["volumes"] if "secret" in each]
        return str(volume["secretName"])

    cluster.kubectl("apply", "--filename=-", stdin=stubs)
    cluster.kubectl("wait", "--for=condition=Established", "--filename=-", "--timeout=30s", stdin=stubs)
    try:
        cluster.helm("install", RELEASE, str(CHART), "--set=replicas=0")
        first = certificate(cluster)

        cluster.helm(
            "upgrade", RELEASE, str(CHART), "--set=replicas=0", "--set=webhook.certificate.source=cert-manager"
        )
        play_cert_manager(cluster, first)
        assert mounted() == "tenant-operator-webhook-tls"
        assert "tenant-operator-webhook" not in cluster.names("secrets", where)
        # An upgrade leaves alone what cert-manager has written.
        cluster.helm(
            "upgrade", RELEASE, str(CHART), "--set=replicas=0", "--set=webhook.certificate.source=cert-manager"
        )
        assert trusted(cluster) == {first["ca.crt"]}

        back = ("upgrade", RELEASE, str(CHART), "--set=replicas=0")
        refused = cluster.try_helm(*back)
        assert 'conflict with "cert-manager-cainjector"' in refused.stderr
        cluster.helm(*back, "--force-conflicts")
        second = certificate(cluster)
        assert mounted() == "tenant-operator-webhook"
        assert second["tls.crt"] != first["tls.crt"]
        assert trusted(cluster) == {second["ca.crt"]}
    finally:
        cluster.run(str(cluster.environment.kubectl), "delete", "secret", "tenant-operator-webhook-tls", where)
        cluster.kubectl("delete", "--filename=-", stdin=stubs)


def test_the_token_is_kept_over_upgrades_and_can_be_made_anew(cluster: Cluster) -> None:
    secret = ("secret", "tenant-operator-webhook-token", f"--namespace={NAMESPACE}")

    def token() -> str:
        return b64decode(cluster.read(*secret)["data"]["token"]).decode()

    def paths() -> set[str]:
        found = cluster.read("mutatingwebhookconfigurations,validatingwebhookconfigurations")["items"]
        return {
            webhook["clientConfig"]["service"]["path"].rpartition("/")[0]
            for each in found
            for webhook in each["webhooks"]
        }

    def annotation() -> str:
        deployment = cluster.read("deployment", "tenant-operator", f"--namespace={NAMESPACE}")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["intelliauth.io/webhook-token"])

    cluster.helm("install", RELEASE, str(CHART), "--set=replicas=0")
    first, noted = token(), annotation()
    assert re.fullmatch(r"[A-Za-z0-9]{48}", first)
    assert paths() == {f"/{first}"}

    cluster.helm("upgrade", RELEASE, str(CHART), "--set=replicas=0")
    assert (token(), annotation()) == (first, noted)
    assert paths() == {f"/{first}"}

    cluster.kubectl("delete", *secret)
    cluster.helm("upgrade", RELEASE, str(CHART), "--set=replicas=0")
    assert token() != first
    assert annotation() != noted  # the pod goes with it
    assert paths() == {f"/{token()}"}


def test_a_trial_run_makes_nothing(cluster: Cluster) -> None:
    assert "kind: Secret" in cluster.helm("install", RELEASE, str(CHART), "--dry-run=server")
    told = cluster.helm("install", RELEASE, str(CHART), "--dry-run=server", "--set=secrets.databaseUrl.name=later")
    steps = ("create secret generic later", "rollout status deployment/tenant-operator", "kubectl apply -f manifests/")
    assert sorted(steps, key=told.index) == list(steps)
    refused = cluster.try_helm("install", RELEASE, str(CHART), "--set=replicas=3")
    assert refused.returncode != 0
    assert "'/replicas': maximum: got 3, want 1" in refused.stderr

    assert not cluster.names("crd") & set(KINDS)
    assert cluster.names("secrets", f"--namespace={NAMESPACE}") == {"tenant-operator-database"}


def an_earlier_chart(folder: Path) -> Path:
    """The chart, with a kind that shows less of a Tenant."""
    earlier = folder / "tenant-operator"
    shutil.copytree(CHART, earlier)
    file = earlier / "files" / "crds" / "intelliauth.io_tenants.yaml"
    crd = yaml.safe_load(file.read_text())
    del crd["spec"]["versions"][0]["additionalPrinterColumns"]
    # Where the chart looks for it.
    file.write_text(yaml.safe_dump(crd, sort_keys=False))
    return earlier


def test_an_upgrade_brings_the_kinds_up_to_date(cluster: Cluster, tmp_path: Path) -> None:
    def columns() -> list[str]:
        (version,) = cluster.read("crd", "tenants.intelliauth.io")["spec"]["versions"]
        return [each["name"] for each in version.get("additionalPrinterColumns", ())]

    cluster.helm("install", RELEASE, str(an_earlier_chart(tmp_path)), *QUIET)
    assert "State" not in columns()
    cluster.helm("upgrade", RELEASE, str(CHART), *QUIET)
    assert "State" in columns()


def create_tenants(cluster: Cluster) -> dict[str, str]:
    """The UIDs of the samples' Tenants, by their names."""
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{kind}" for kind in KINDS))
    for name in ("organization", "plans", "tenants"):
        cluster.kubectl("apply", f"--filename={SAMPLES / name}.yaml")
    return tenants(cluster)


def tenants(cluster: Cluster) -> dict[str, str]:
    found = cluster.read("tenants", "--namespace=cymmetri")["items"]
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}


def test_uninstalling_leaves_the_kinds_and_the_tenants_and_nothing_else(cluster: Cluster) -> None:
    everywhere = ("clusterroles,clusterrolebindings", "--selector=app.kubernetes.io/part-of=intelliauth")
    here = ("deploy,svc,sa,pdb,netpol,role,rolebinding,secret", f"--namespace={NAMESPACE}")
    before = cluster.names(*here)
    cluster.helm("install", RELEASE, str(CHART), *QUIET)
    created = create_tenants(cluster)
    assert "banking" in created

    cluster.helm("uninstall", RELEASE)

    assert set(KINDS) <= cluster.names("crd")
    assert tenants(cluster) == created
    assert cluster.names(*everywhere) == set()
    assert cluster.names(*here) <= before

    cluster.helm("install", RELEASE, str(CHART), *QUIET)
    assert tenants(cluster) == created
    cluster.helm("uninstall", RELEASE)

    another = cluster.try_helm("install", "blue", str(CHART), *QUIET)
    assert another.returncode != 0
    assert "cannot be imported into the current release" in another.stderr
    cluster.helm("install", "blue", str(CHART), *QUIET, "--take-ownership")
    assert tenants(cluster) == created
    owner = cluster.read("crd", KINDS[0])["metadata"]["annotations"]["meta.helm.sh/release-name"]
    assert owner == "blue"


def test_the_plain_install_runs_and_can_become_a_release(cluster: Cluster) -> None:
    objects = list(yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()))
    # No cert-manager runs here.
    served = yaml.safe_dump_all(each for each in objects if not each["apiVersion"].startswith("cert-manager.io/"))
    apply = (str(cluster.environment.kubectl), "apply", "--server-side", "--filename=-")
    try:
        applied = cluster.run(*apply, stdin=served)
        assert applied.returncode == 0, applied.stderr
        assert "PodSecurity" not in applied.stderr
        where = f"--namespace={RELEASE}"
        cluster.kubectl("wait", "--for=condition=Available", "deployment/tenant-operator", where, "--timeout=60s")

        taking_over = ("--take-ownership", "--force-conflicts", where)
        cluster.helm("install", RELEASE, str(CHART), *QUIET, *taking_over)
        cluster.helm("uninstall", RELEASE, where)
        assert set(KINDS) <= cluster.names("crd")
    finally:
        # How soon they are gone is not what is asked here; the fixture sees to it that the kinds are.
        cluster.kubectl("delete", "--filename=-", "--ignore-not-found", "--wait=false", stdin=served)


# `helm test`: its script, where the API server, the operator and the responder are real.


def run_test_script(cluster: Cluster, folder: Path, health: int, responder: int) -> subprocess.CompletedProcess[str]:
    """The script, as its pod would run it, where the operator's endpoints are at these ports."""
    (config,) = json.loads(cluster.kubectl("config", "view", "--minify", "--flatten", "--output=json"))["clusters"]
    server = urlsplit(config["cluster"]["server"])
    token = cluster.kubectl("create", "token", "tenant-operator-test", f"--namespace={NAMESPACE}")
    (folder / "token").write_text(token)
    (folder / "ca.crt").write_bytes(b64decode(config["cluster"]["certificate-authority-data"]))
    environment = {
        "HEALTH_HOST": "127.0.0.1",
        "HEALTH_PORT": str(health),
        "RESPONDER_URL": f"http://127.0.0.1:{responder}",
        "ADMISSION_NAMESPACE": NAMESPACE,
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "ACCOUNT": str(folder),
    }
    return subprocess.run(  # noqa: S603
        [sys.executable, str(CHART / "files" / "test.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def apply_test_account(cluster: Cluster) -> None:
    """What `helm test` makes, but for the pod: no container runs here."""
    hooks = [each for each in yaml.safe_load_all(cluster.helm("get", "hooks", RELEASE)) if each["kind"] != "Pod"]
    cluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(hooks))


def operator_variables(
    cluster: Cluster, folder: Path, addresses: tuple[int, int], webhook: Webhook, **more: str
) -> dict[str, str]:
    """The environment of an operator outside of the cluster that is the chart's ServiceAccount."""
    cluster.write_operator_kubeconfig(folder / "kubeconfig")
    settings = {
        "DATABASE_URL": cluster.environment.database_url,
        "HEALTH_HOST": "127.0.0.1",
        "HEALTH_PORT": str(addresses[0]),
        "PAUSED_HOST": "127.0.0.1",
        "PAUSED_PORT": str(addresses[1]),
        **webhook.settings(),
        **more,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TENANT_OPERATOR_")}
    path = os.pathsep.join(part for part in (str(ROOT / "operator"), os.environ.get("PYTHONPATH")) if part)
    named = {f"TENANT_OPERATOR_{name}": value for name, value in settings.items()}
    return {**inherited, **named, "PYTHONPATH": path, "KUBECONFIG": str(folder / "kubeconfig")}


def readiness(cluster: Cluster, port: int) -> tuple[int, str]:
    """What an operator at that port says of itself; 0 before it says anything."""
    cluster.devcluster.check()
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz")
    except httpx.HTTPError:
        return 0, ""
    return answer.status_code, answer.text


def test_helm_test_says_what_the_operator_lacks(cluster: Cluster, tmp_path: Path) -> None:
    """A wrong password of the database, to begin with."""
    health, paused, port = ports.choose(3)
    cluster.helm("install", RELEASE, str(CHART), "--set=webhook.enabled=false")
    apply_test_account(cluster)
    wrong = re.sub(r"//([^:@/]+)(:[^@/]*)?@", r"//nobody:wrong-password@", cluster.environment.database_url)
    cluster.devcluster.spawn(
        "operator-without-a-database",
        [sys.executable, "-m", "tenant_operator", "run"],
        operator_variables(
            cluster, tmp_path, (health, paused), Webhook.issue(tmp_path / "webhook", port), DATABASE_URL=wrong
        ),
    )
    until(lambda: "database: Postgre" in readiness(cluster, health)[1], "it has looked", 60)

    broken = run_test_script(cluster, tmp_path, health, paused)

    assert broken.returncode == 1
    assert "the operator at 127.0.0.1 is not ready: operator: starting; database: PostgreSQL" in broken.stderr
    assert "nobody" in broken.stderr
    assert "wrong-password" not in broken.stderr


def test_helm_test_tells_a_working_installation_from_one_that_does_not(cluster: Cluster, tmp_path: Path) -> None:
    health, paused, port = ports.choose(3)
    webhook = Webhook.issue(tmp_path / "webhook", port)
    outside = (f"--set=webhook.clientConfig.url={webhook.address}", f"--set=webhook.token={webhook.token}")
    trust = f"--set-file=webhook.clientConfig.caBundle={webhook.authority}"

    cluster.helm("install", RELEASE, str(CHART), "--set=webhook.enabled=false")
    apply_test_account(cluster)
    alone = run_test_script(cluster, tmp_path, health, paused)
    assert alone.returncode == 1
    assert "did not answer" in alone.stderr

    cluster.devcluster.spawn(
        "operator",
        [sys.executable, "-m", "tenant_operator", "run"],
        operator_variables(cluster, tmp_path, (health, paused), webhook),
    )

    until(lambda: readiness(cluster, health)[0] == HTTPStatus.OK, "the operator is ready", 90)
    unasked = run_test_script(cluster, tmp_path, health, paused)
    assert unasked.returncode == 1
    assert "the operator at 127.0.0.1 is ready: operator: ok; watches: ok; webhooks: ok; database: ok" in unasked.stdout
    # Nobody has told this operator of a mail server, and that does not keep it from working.
    assert "mail: mail server localhost:587: connection refused" in unasked.stdout
    assert "answers 503, Retry-After 60 s" in unasked.stdout
    assert "expected the operator's refusal, got 201" in unasked.stderr

    cluster.helm("upgrade", RELEASE, str(CHART), *outside)
    untrusted = run_test_script(cluster, tmp_path, health, paused)
    assert untrusted.returncode == 1
    assert "failed calling webhook" in untrusted.stderr

    cluster.helm("upgrade", RELEASE, str(CHART), *outside, trust)
    working = run_test_script(cluster, tmp_path, health, paused)
    assert working.returncode == 0, working.stderr
    assert "the API server asks the operator" in working.stdout
    assert "lacks the verb 'provision'" in working.stdout
    assert cluster.names("tenants", f"--namespace={NAMESPACE}") == set()

    cluster.kubectl("delete", "rolebinding", "tenant-operator-test", f"--namespace={NAMESPACE}")
    stranger = run_test_script(cluster, tmp_path, health, paused)
    assert stranger.returncode == 1
    assert "cannot create resource" in stranger.stderr
