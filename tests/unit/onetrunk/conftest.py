from __future__ import annotations

import pytest
from support.mistakes import World, make_world
from support.toy_backbone import Toy


@pytest.fixture(scope="session")
def world(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store and inputs to make mistakes with; no test changes them."""
    return make_world(tmp_path_factory.mktemp("world"), toy)
