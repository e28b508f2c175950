"""Sixteen processes at once on one store, on every catalogue and backend; `concurrency_checks` has what must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.concurrency_checks import ALLOWED, problems, tally
from support.concurrency_operations import OperationResult, Workload
from support.concurrency_run import work
from support.toy_backbone import Toy

from store.registry.store import Store

PROCESSES, EACH = 16, 15


@pytest.mark.parametrize("catalogue", ["SQLite", "PostgreSQL"])
@pytest.mark.parametrize("backend", ["folder", "S3"])
def test_sixteen_processes_lose_no_move_and_are_told_nothing_that_was_not_so(
    catalogue: str, backend: str, toy: Toy, tuned: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("bucket") if backend == "S3" else str(tmp_path / "store")
    url = request.getfixturevalue("database") if catalogue == "PostgreSQL" else f"sqlite:///{tmp_path}/catalogue.sqlite"
    with Store.open(root, create=True, catalogue=url) as store:
        store.add_backbone(toy.record, toy.weights)
        workload = Workload(root, url, str(tuned), toy.record.name, str(tmp_path / "logs"), PROCESSES, EACH)
        outcomes = work(workload)
        assert problems(store, outcomes) == []
    answered = tally(outcomes)
    assert sum(count for counts in answered.values() for count in counts.values()) >= PROCESSES * EACH
    assert {"publish", "collect", *ALLOWED} <= answered.keys()


Lie = Callable[[OperationResult], OperationResult | None]
LIES: dict[str, tuple[str, Lie, str]] = {
    "a number that another version has": ("publish", lambda o: replace(o, version=2), "the history has"),
    "nothing of what was published": ("publish", lambda _: None, "nobody was told"),
    "a failure of what was done": ("tag", lambda o: replace(o, error="StorageError"), "answers no request"),
    "an error that no race explains": ("page", lambda o: replace(o, error="ConflictError"), "page: ConflictError"),
    "a move that was not made": ("set_alias", lambda o: replace(o, moved=("canary", "production")), "it never was"),
    "a version that an alias never named": ("resolve", lambda o: replace(o, version=99), "it was not, then"),
    "a version gone that nobody removed": (
        "tag",
        lambda o: replace(o, version=-1, error="VersionNotFoundError"),
        "nobody had removed it",
    ),
}


@pytest.fixture(scope="module")
def worked(toy: Toy, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[OperationResult]]:
    """A store on which two processes worked, and what they were told."""
    scratch = tmp_path_factory.mktemp("worked")
    root = str(scratch / "store")
    with Store.open(root, create=True) as store:
        store.add_backbone(toy.record, toy.weights)
        outcomes = work(Workload(root, None, str(tuned), toy.record.name, str(scratch / "logs"), processes=2, each=40))
        assert problems(store, outcomes) == []
    return root, outcomes


@pytest.mark.parametrize("lie", LIES)
def test_the_check_finds_a_process_that_was_told(lie: str, worked: tuple[str, list[OperationResult]]) -> None:
    root, outcomes = worked
    kind, change, found = LIES[lie]
    with Store.open(root) as store:
        assert any(found in problem for problem in problems(store, told(outcomes, kind, change)))


def told(outcomes: Sequence[OperationResult], kind: str, change: Lie) -> list[OperationResult]:
    """Change each answer of this kind that was no error."""
    changed = [change(o) if o.kind == kind and o.error is None else o for o in outcomes]
    return [outcome for outcome in changed if outcome is not None]
