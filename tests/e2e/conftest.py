"""The product end to end: the operator as a process or a pod, in a real cluster, driven with kubectl."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from devcluster import Environment
from devcluster import platform as installed
from tests.e2e import catalog, cluster_source, operator_pod
from tests.e2e.feed import TenantFeed
from tests.e2e.operator_process import RUN
from tests.e2e.webhook import GatedWorld
from tests.e2e.world import World


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """A cluster that knows the product's kinds, with a database and a mail receiver."""
    with cluster_source.cluster(tmp_path_factory.mktemp("platform"), request) as environment:
        installed.install(environment)
        yield environment
        if Environment.load(environment.state) is not None:
            return  # it is one of ours, and goes as a whole
        for kind, *names in (("organizations", catalog.ORGANIZATION), ("plans", *catalog.PLANS, *catalog.OWN_PLANS)):
            installed.kubectl(environment, "delete", kind, *names, "--ignore-not-found")
        installed.kubectl(environment, "delete", "namespace", catalog.NAMESPACE, "--ignore-not-found")


@pytest.fixture(scope="session")
def tenant_feed(platform: Environment) -> Iterator[TenantFeed]:
    """Hears of every change of every Tenant."""
    with TenantFeed(platform) as feed:
        yield feed


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    """Settings of the module's operator, by their names without the prefix. A module overrides this."""
    return {"STALLED_RETRY": "1s"}


@pytest.fixture(scope="module")
def operator_command() -> Sequence[str]:
    """How the module's operator is started. A module overrides this."""
    return RUN


@pytest.fixture(scope="module")
def module_world(
    platform: Environment,
    tenant_feed: TenantFeed,
    operator_settings: Mapping[str, str],
    operator_command: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """The module's operator at work. At the end nothing is left, it ends when told to, and it never stumbled."""
    operator = operator_pod.operator(platform, tmp_path_factory.mktemp("operator"), operator_settings, operator_command)
    world = World(platform, tenant_feed, operator)
    world.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": catalog.NAMESPACE}},
        *catalog.PLANS.values(),
        catalog.organization(),
    )
    try:
        operator.start()
        yield world
        world.is_clean()
        # The next module finds the catalogue as this one did.
        world.kubectl("delete", "plans", *catalog.OWN_PLANS, "--ignore-not-found")
        assert operator.stop() == 0
        assert operator.stumbles() == []
    finally:
        if operator.is_running:
            operator.kill()


@pytest.fixture
def world(module_world: World) -> Iterator[World]:
    """The module's world; what a test has applied is gone after it."""
    yield module_world
    module_world.clean_up()


@pytest.fixture
def gate(world: World) -> GatedWorld:
    """The module's world, whose webhooks know who asks."""
    assert isinstance(world, GatedWorld)
    return world
