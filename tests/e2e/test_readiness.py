"""Ready is an operator that can work: what it needs is looked at, and what is missing is said."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from devcluster import Environment
from devcluster.platform import operator_kubeconfig
from tests.contract.loopback import unused_port
from tests.e2e import catalog
from tests.e2e.feed import TenantFeed
from tests.e2e.operator_process import OperatorProcess
from tests.e2e.waiting import until
from tests.e2e.wire import Wire
from tests.e2e.world import TenantUnderTest, World

ADMINISTRATOR = "e2e_newcomer"
MAINTENANCE = "e2e_readiness"
"""A database of its own to work in: the other one is that of the other modules' administrator."""


@pytest.fixture
def administrator(platform: Environment) -> Iterator[str]:
    """The connection string of an administrator who has a password and no rights."""
    with psycopg.connect(platform.database_url, autocommit=True) as session:
        session.execute(f"CREATE ROLE {ADMINISTRATOR} LOGIN CREATEDB CREATEROLE PASSWORD 'right-password'")
        # The operator of another module, a superuser, may have closed it to those who come later.
        session.execute(f"GRANT CONNECT ON DATABASE postgres TO {ADMINISTRATOR}")
        server = conninfo_to_dict(platform.database_url)
        yield f"postgresql://{ADMINISTRATOR}:right-password@{server['host']}:{server['port']}/{server['dbname']}"
        session.execute(f"DROP DATABASE IF EXISTS {MAINTENANCE} WITH (FORCE)")
        session.execute(f"DROP OWNED BY {ADMINISTRATOR}")
        session.execute(f"DROP ROLE {ADMINISTRATOR}")


@pytest.fixture
def working(platform: Environment, tmp_path: Path) -> OperatorProcess:
    """An operator that has what it needs, once a test starts it."""
    return OperatorProcess(platform, tmp_path, {})


@pytest.fixture
def here(platform: Environment, tenant_feed: TenantFeed, working: OperatorProcess) -> World:
    """A world whose operator a test starts."""
    world = World(platform, tenant_feed, working)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": catalog.NAMESPACE}}
    world.apply(namespace, *catalog.PLANS.values(), catalog.organization())
    return world


def says(operator: OperatorProcess, status: int, words: str = "") -> Callable[[], str]:
    """A look at whether its readiness probe has that status and those words; what it says if so."""

    def look() -> str:
        found, said = operator.readiness()
        return said if found == status and words in said else ""

    return look


def ends(operator: OperatorProcess) -> None:
    """Told to end it does so, and never stumbled."""
    assert operator.stop() == 0
    assert operator.stumbles() == []


def test_a_wrong_password_keeps_a_new_operator_from_taking_over(
    platform: Environment, here: World, working: OperatorProcess, administrator: str, tmp_path: Path
) -> None:
    """As in a rolling upgrade: the one that works goes on, the other says why it does not begin; and begins when the
    password is right."""
    (tmp_path / "new").mkdir()
    wrong = administrator.replace("right-password", "wrong-password")
    new = OperatorProcess(platform, tmp_path / "new", {"DATABASE_URL": wrong, "DATABASE_MAINTENANCE": MAINTENANCE})
    working.start()
    try:
        new.launch()
        said = until(says(new, 503, "password authentication failed"), "it says why")
        assert "database: " in said
        assert "operator: starting" in said
        assert "wrong-password" not in said + new.output()
        assert new.is_alive()
        tenant = here.tenant("unharmed")
        tenant.settles("Active")
        assert new.readiness()[0] == 503

        with psycopg.connect(platform.database_url, autocommit=True) as session:
            session.execute(f"ALTER ROLE {ADMINISTRATOR} PASSWORD 'wrong-password'")
        until(says(new, 200), "it is ready once the password is right", 60)
        assert new.output().count("password authentication failed") == 2, "by whoever asked, and by the look; once each"
        ends(new)
        tenant.delete()
    finally:
        for operator in (new, working):
            if operator.is_running:
                operator.stop()


def test_an_administrator_without_rights_is_no_administrator(
    platform: Environment, administrator: str, tmp_path: Path
) -> None:
    with psycopg.connect(platform.database_url, autocommit=True) as session:
        session.execute(f"ALTER ROLE {ADMINISTRATOR} NOCREATEDB")
    operator = OperatorProcess(platform, tmp_path, {"DATABASE_URL": administrator, "DATABASE_MAINTENANCE": MAINTENANCE})
    operator.launch()
    try:
        until(says(operator, 503, "CREATEDB"), "it names the right that is missing")
        ends(operator)  # as told, in the middle of its waiting
    finally:
        if operator.is_running:
            operator.kill()


def test_mail_and_audit_feed_are_said_and_keep_nobody_from_working(
    platform: Environment, here: World, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    settings = {"SMTP_PORT": str(unused_port()), "AUDIT_LOG": str(tmp_path / "nowhere" / "audit.jsonl")}
    operator = OperatorProcess(platform, tmp_path / "other", settings)
    operator.start()
    try:
        said = until(says(operator, 200, "audit feed: audit feed"), "it has looked")
        lines = {name: fault for name, _, fault in (line.partition(": ") for line in said.splitlines())}
        assert {name for name, fault in lines.items() if fault == "ok"} == {"operator", "watches", "database"}
        assert "connection refused" in lines["mail"]
        assert "no such file or directory" in lines["audit feed"]
        ends(operator)
    finally:
        if operator.is_running:
            operator.kill()


def kubeconfig_at(platform: Environment, folder: Path, server: str) -> Path:
    """That of the operator, for an API server that is found elsewhere under another name."""
    config = yaml.safe_load(operator_kubeconfig(platform).read_text())
    config["clusters"][0]["cluster"] |= {"server": server, "tls-server-name": "kubernetes.default.svc"}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def api_server(platform: Environment) -> tuple[str, int]:
    config = yaml.safe_load(operator_kubeconfig(platform).read_text())
    host, _, port = config["clusters"][0]["cluster"]["server"].removeprefix("https://").rpartition(":")
    return host, int(port)


def test_watches_go_where_the_operator_s_own_requests_go_and_a_cut_is_noticed(
    platform: Environment, here: World, tmp_path: Path
) -> None:
    """Cluster DNS, and the pod's well-known address, are of no use here; and it is all on one wire."""
    (tmp_path / "other").mkdir()
    with Wire(*api_server(platform)) as wire:
        kubeconfig = kubeconfig_at(platform, tmp_path, f"https://127.0.0.1:{wire.port}")
        operator = OperatorProcess(platform, tmp_path / "other", {}, environment={"KUBECONFIG": str(kubeconfig)})
        operator.start()
        try:
            tenant = TenantUnderTest(here, _create(here, "on-the-wire"))
            tenant.settles("Active")
            wire.cut()
            until(says(operator, 503, "no watch of /apis/intelliauth.io/v1alpha1/tenants ("), "the cut is noticed", 90)
            assert operator.is_alive()
            wire.mend()
            until(says(operator, 200), "it is ready again", 60)
            tenant.delete()
            ends(operator)
        finally:
            wire.mend()
            if operator.is_running:
                operator.kill()


def _create(world: World, name: str) -> dict[str, object]:
    world.apply(catalog.tenant(name, "small"))
    found = world.read("tenant", name, catalog.NAMESPACE)
    assert found is not None
    return found


def test_without_an_api_server_it_ends_and_says_why(platform: Environment, tmp_path: Path) -> None:
    kubeconfig = kubeconfig_at(platform, tmp_path, f"https://127.0.0.1:{unused_port()}")
    operator = OperatorProcess(platform, tmp_path, {}, environment={"KUBECONFIG": str(kubeconfig)})
    operator.launch()

    assert operator.wait(90) == 1
    assert operator.output().count("asking again for") == 1
    assert "cannot start: the SelfSubjectReview: the API server did not answer" in operator.output()
    assert operator.stumbles() == []


def test_an_api_server_that_comes_late_is_waited_for(platform: Environment, tmp_path: Path) -> None:
    with Wire(*api_server(platform)) as wire:
        wire.cut()
        kubeconfig = kubeconfig_at(platform, tmp_path, f"https://127.0.0.1:{wire.port}")
        operator = OperatorProcess(platform, tmp_path, {}, environment={"KUBECONFIG": str(kubeconfig)})
        operator.launch()
        try:
            until(lambda: "asking again" in operator.output(), "it has noticed")
            assert operator.readiness()[0] == 503
            assert operator.lives()
            wire.mend()
            until(says(operator, 200), "it is ready", 60)
            ends(operator)
        finally:
            if operator.is_running:
                operator.kill()


def test_a_hung_operator_is_not_alive(working: OperatorProcess) -> None:
    """Stopped in the middle of its loop it answers nothing; going on, it is as before."""
    working.start()
    try:
        assert working.lives()
        working.signal(signal.SIGSTOP)
        assert not working.lives()
        working.signal(signal.SIGCONT)
        until(working.lives, "it goes on")
        ends(working)
    finally:
        if working.is_running:
            working.kill()


def test_only_the_routes_in_use_are_watched_and_nobody_warns_of_others(working: OperatorProcess) -> None:
    working.start()
    try:
        assert "httproutes" not in working.output()
        ends(working)
    finally:
        if working.is_running:
            working.kill()
