"""Worlds that are so far, each test its own."""

import pytest

from tests.unit.provisioning.cluster_world import World, bounded_world, claimed_world


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def claimed() -> World:
    return await claimed_world()


@pytest.fixture
async def bounded() -> World:
    return await bounded_world()
