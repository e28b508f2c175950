"""Every verb, with the power cut at any of its operations, on a disk that keeps only what was synced."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
from support.backend_calls import CALLS, BackendCall, prepare_call
from support.crash_subjects import Subject, spread
from support.fault_points import changing_calls
from support.invariants import VerbSubject
from support.lossy_fsync import Forget, sync_sites, trust_the_cache
from support.power_cuts import Accident, PowerCuts, check, find_any_loss, find_loss
from support.store_verbs import VERBS

from store.backends import atomic_write, local

ALL = os.environ.get("ONETRUNK_CRASH_POINTS") == "all"
STATES = None if ALL else 50  # of each verb
SHARE = 10_000 if ALL else 5  # of each verb's calls at which another accident comes first

pytestmark = pytest.mark.timeout(1800)  # of all states, on a machine that does other things


@pytest.fixture(scope="module")
def backend_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackendCall]:
    return {name: prepare_call(name, tmp_path_factory.mktemp("call")) for name in CALLS}


@pytest.fixture(scope="module")
def power_cuts(verb_subjects: Mapping[str, VerbSubject], traced_pool: Executor) -> dict[str, Future[PowerCuts]]:
    return {name: traced_pool.submit(check, subject, at_most=STATES) for name, subject in verb_subjects.items()}


def losses_of(subject: Subject, accidents: Iterable[Accident], pool: Executor) -> list[str]:
    """Return the losses that these accidents lead to where the power is cut after them."""
    searches = [pool.submit(find_loss, subject, accident) for accident in accidents]
    return [str(search.result()) for search in searches if search.result() is not None]


@pytest.mark.parametrize("verb", VERBS)
def test_a_power_cut_leaves_all_that_was_acknowledged_and_the_verb_done_or_undone(
    verb: str, power_cuts: Mapping[str, Future[PowerCuts]]
) -> None:
    cuts = power_cuts[verb].result()
    assert [str(loss) for loss in cuts.losses] == []
    assert cuts.examined >= 3


@pytest.mark.parametrize("name", CALLS)
def test_a_power_cut_leaves_the_whole_object_or_the_one_before(
    name: str, backend_calls: Mapping[str, BackendCall], traced_pool: Executor
) -> None:
    cuts = traced_pool.submit(check, backend_calls[name], at_most=None).result()
    assert [str(loss) for loss in cuts.losses] == []
    assert cuts.examined >= 3


@pytest.mark.parametrize("name", CALLS)
def test_a_writer_that_was_killed_leaves_nothing_that_the_next_one_wrongly_relies_on(
    name: str, backend_calls: Mapping[str, BackendCall], traced_pool: Executor
) -> None:
    points = traced_pool.submit(changing_calls, backend_calls[name]).result()
    assert losses_of(backend_calls[name], [Accident(killed_at=point) for point in points], traced_pool) == []
    assert len(points) >= 2


@pytest.mark.parametrize("verb", ["publish", "publish known bytes", "set alias", "collect", "create", "migrate"])
def test_a_verb_that_was_killed_leaves_nothing_that_the_next_run_wrongly_relies_on(
    verb: str, verb_subjects: Mapping[str, VerbSubject], traced_pool: Executor
) -> None:
    points = traced_pool.submit(changing_calls, verb_subjects[verb]).result()
    accidents = [Accident(killed_at=point) for point in spread(points, SHARE)]
    assert losses_of(verb_subjects[verb], accidents, traced_pool) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_whose_sync_has_failed_acknowledges_nothing_that_is_not_on_the_disk(
    verb: str, verb_subjects: Mapping[str, VerbSubject], traced_pool: Executor
) -> None:
    points = [point for point in traced_pool.submit(changing_calls, verb_subjects[verb]).result() if "sync" in point[0]]
    accidents = [Accident(fails_at=point) for point in spread(points, SHARE)]
    assert losses_of(verb_subjects[verb], accidents, traced_pool) == []
    assert accidents


def test_each_sync_of_the_folder_backend_is_missed_when_it_is_left_out(
    backend_calls: Mapping[str, BackendCall], traced_pool: Executor
) -> None:
    sites: dict[str, list[BackendCall]] = {}
    for call in backend_calls.values():
        for site in traced_pool.submit(sync_sites, call).result():
            sites.setdefault(site, []).append(call)
    reached = {line.split()[0] for site in sites for line in site.split(" < ")}
    assert _lines_that_sync() <= reached
    searches = {site: traced_pool.submit(find_any_loss, users, Forget(site)) for site, users in sites.items()}
    assert [site for site, search in searches.items() if search.result() is None] == []


@pytest.mark.parametrize("function", ["write_synced", "sync_folder"])
@pytest.mark.parametrize("verb", ["create", "publish", "set alias", "collect", "import", "migrate"])
def test_a_store_that_forgets_to_sync_its_files_or_folders_is_found_out(
    verb: str, function: str, verb_subjects: Mapping[str, VerbSubject], traced_pool: Executor
) -> None:
    sites = traced_pool.submit(sync_sites, verb_subjects[verb]).result()
    (place,) = {place for place in (site.split(" < ")[0] for site in sites) if place.endswith(f" {function}")}
    assert traced_pool.submit(find_loss, verb_subjects[verb], Accident(Forget(place))).result() is not None


@pytest.mark.parametrize("verb", ["publish", "set alias"])
def test_a_catalogue_that_trusts_the_cache_loses_what_it_has_acknowledged(
    verb: str, verb_subjects: Mapping[str, VerbSubject], traced_pool: Executor
) -> None:
    loss = traced_pool.submit(find_loss, verb_subjects[verb], Accident(trust_the_cache)).result()
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
