from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest
from support.crash_subjects import workers
from support.invariants import VerbSubject
from support.populated_store import build, copy
from support.strace import why_not
from support.task_inputs import prepare_verbs
from support.toy_backbone import Toy


@pytest.fixture(scope="module")
def traced_pool() -> Iterator[Executor]:
    """Processes in which subjects run under strace."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no process can be traced: {reason}")
    with workers() as pool:
        yield pool


@pytest.fixture(scope="module")
def verb_subjects(traced_pool: Executor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, VerbSubject]:
    """Every verb of the store, with its store before it; nothing is made where no process can be traced."""
    del traced_pool
    return prepare_verbs(tmp_path_factory.mktemp("verbs"))


@pytest.fixture(scope="module")
def populated(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a store with something of everything, to be copied and not changed."""
    return build(tmp_path_factory.mktemp("populated") / "store", tmp_path_factory.mktemp("folder"), toy)


@pytest.fixture
def root(populated: Path, tmp_path: Path) -> Path:
    """A copy of that store, to be damaged."""
    return copy(populated, tmp_path / "store")
