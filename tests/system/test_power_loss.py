"""Every verb, with the power cut at any of its operations, on a disk that keeps only what was synced."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest
from support.backend_calls import CALLS, Primitive, prepare_primitive
from support.fault_points import changing_calls, spread, workers
from support.invariants import Ground, prepare
from support.lossy_fsync import Forget, sync_sites, trust_the_cache
from support.power_cuts import Accident, Checked, check, find_any_loss, find_loss
from support.store_verbs import VERBS
from support.strace import why_not
from support.task_inputs import make_inputs

from store.backends import atomic_write, local

REASON = why_not()
ALL = os.environ.get("ONETRUNK_CRASH_POINTS") == "all"
STATES = None if ALL else 50  # of each verb
SHARE = 10_000 if ALL else 5  # of each verb's calls at which another accident comes first

pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"no process can be traced: {REASON}"),
    pytest.mark.timeout(1800),  # of all states, on a machine that does other things
]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with workers() as running:
        yield running


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ground]:
    inputs = make_inputs(tmp_path_factory.mktemp("inputs"))
    return {name: prepare(name, inputs, tmp_path_factory.mktemp("ground")) for name in VERBS}


@pytest.fixture(scope="module")
def primitives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Primitive]:
    return {name: prepare_primitive(name, tmp_path_factory.mktemp("primitive")) for name in CALLS}


@pytest.fixture(scope="module")
def checked(grounds: Mapping[str, Ground], pool: ProcessPoolExecutor) -> dict[str, Future[Checked]]:
    return {name: pool.submit(check, ground, at_most=STATES) for name, ground in grounds.items()}


@pytest.mark.parametrize("verb", VERBS)
def test_a_power_cut_leaves_all_that_was_acknowledged_and_the_verb_done_or_undone(
    verb: str, checked: Mapping[str, Future[Checked]]
) -> None:
    result = checked[verb].result()
    assert [str(loss) for loss in result.losses] == []
    assert result.examined >= 3


@pytest.mark.parametrize("name", CALLS)
def test_a_power_cut_leaves_the_whole_object_or_the_one_before(
    name: str, primitives: Mapping[str, Primitive], pool: ProcessPoolExecutor
) -> None:
    result = pool.submit(check, primitives[name], at_most=None).result()
    assert [str(loss) for loss in result.losses] == []
    assert result.examined >= 3


@pytest.mark.parametrize("name", CALLS)
def test_a_writer_that_was_killed_leaves_nothing_that_the_next_one_wrongly_relies_on(
    name: str, primitives: Mapping[str, Primitive], pool: ProcessPoolExecutor
) -> None:
    points = pool.submit(changing_calls, primitives[name]).result()
    runs = [pool.submit(find_loss, primitives[name], Accident(killed_at=point)) for point in points]
    assert [str(run.result()) for run in runs if run.result() is not None] == []
    assert len(runs) >= 2


@pytest.mark.parametrize("verb", ["publish", "publish known bytes", "set alias", "collect", "create", "migrate"])
def test_a_verb_that_was_killed_leaves_nothing_that_the_next_run_wrongly_relies_on(
    verb: str, grounds: Mapping[str, Ground], pool: ProcessPoolExecutor
) -> None:
    points = pool.submit(changing_calls, grounds[verb]).result()
    runs = [pool.submit(find_loss, grounds[verb], Accident(killed_at=point)) for point in spread(points, SHARE)]
    assert [str(run.result()) for run in runs if run.result() is not None] == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_whose_sync_has_failed_acknowledges_nothing_that_is_not_on_the_disk(
    verb: str, grounds: Mapping[str, Ground], pool: ProcessPoolExecutor
) -> None:
    points = [point for point in pool.submit(changing_calls, grounds[verb]).result() if "sync" in point[0]]
    runs = [pool.submit(find_loss, grounds[verb], Accident(fails_at=point)) for point in spread(points, SHARE)]
    assert [str(run.result()) for run in runs if run.result() is not None] == []
    assert runs


def test_each_sync_of_the_folder_backend_is_missed_when_it_is_left_out(
    primitives: Mapping[str, Primitive], pool: ProcessPoolExecutor
) -> None:
    sites: dict[str, list[Primitive]] = {}
    for primitive in primitives.values():
        for site in pool.submit(sync_sites, primitive).result():
            sites.setdefault(site, []).append(primitive)
    reached = {line.split()[0] for site in sites for line in site.split(" < ")}
    assert _lines_that_sync() <= reached
    searches = {site: pool.submit(find_any_loss, users, Forget(site)) for site, users in sites.items()}
    assert [site for site, search in searches.items() if search.result() is None] == []


@pytest.mark.parametrize("function", ["write_synced", "sync_folder"])
@pytest.mark.parametrize("verb", ["create", "publish", "set alias", "collect", "import", "migrate"])
def test_a_store_that_forgets_to_sync_its_files_or_folders_is_found_out(
    verb: str, function: str, grounds: Mapping[str, Ground], pool: ProcessPoolExecutor
) -> None:
    sites = pool.submit(sync_sites, grounds[verb]).result()
    (place,) = {place for place in (site.split(" < ")[0] for site in sites) if place.endswith(f" {function}")}
    assert pool.submit(find_loss, grounds[verb], Accident(Forget(place))).result() is not None


@pytest.mark.parametrize("verb", ["publish", "set alias"])
def test_a_catalogue_that_trusts_the_cache_loses_what_it_has_acknowledged(
    verb: str, grounds: Mapping[str, Ground], pool: ProcessPoolExecutor
) -> None:
    loss = pool.submit(find_loss, grounds[verb], Accident(trust_the_cache)).result()
    assert loss is not None
    assert loss.acknowledged


def _lines_that_sync() -> set[str]:
    return {
        f"{path.name}:{call.lineno}"
        for path in (Path(local.__file__), Path(atomic_write.__file__))
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and function.name != "sync_file"  # for archives
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("os.fsync", "sync_folder")
    }
