"""Many tasks tuned by one call: checked first, each on its own, resumed with the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.many_tasks import contents, job, quick, toy_store, write_data
from support.toy_backbone import Toy

from onetrunk.many import fit_many as module
from onetrunk.many.fit_job import FAILED, PUBLISHED, TUNED, Checked, FitJob, FitOutcome
from onetrunk.many.fit_many import FitEvent, fit_many
from onetrunk.many.tuner import CURVE
from onetrunk.workflows import fit_and_publish
from sls.data.loading import load_dataset
from sls.progress import Progress
from store.errors import ConflictError, InvalidSettingError
from store.registry.store import Store


@pytest.fixture
def shop(toy: Toy, tmp_path: Path):
    with toy_store(tmp_path / "store", toy) as store:
        yield store


def here(store: Store | None, jobs: list[FitJob], out: Path, **options: object) -> list[FitOutcome]:
    return fit_many(store, jobs, out=out, workers=0, **options)


def test_each_task_is_tuned_and_published_as_fit_does_it(shop, tmp_path):
    one, other = write_data(tmp_path, "one"), write_data(tmp_path, "other", turn=1)
    jobs = [job("one", one, aliases=("prod",)), job("team/other", other, config=quick(from_block=3))]
    outcomes = here(shop, jobs, tmp_path / "out")
    assert [(outcome.state, outcome.version.number) for outcome in outcomes] == [(PUBLISHED, 1), (PUBLISHED, 1)]
    alone = [
        fit_and_publish(shop, f"alone/{index}", load_dataset(each.data), backbone="toy/vit", config=each.config)
        for index, each in enumerate(jobs)
    ]
    assert [o.version.manifest.adapter for o in outcomes] == [version.manifest.adapter for version in alone]
    assert shop.resolve("one@prod").number == 1
    assert outcomes[1].folder == (tmp_path / "out" / "team%2Fother" / "cut").resolve()
    again = here(shop, jobs, tmp_path / "out")
    assert all(outcome.resumed for outcome in again)
    assert [outcome.version.digest for outcome in again] == [outcome.version.digest for outcome in outcomes]


def test_all_that_can_be_refused_is_refused_at_once_before_anything_is_tuned(shop, tmp_path):
    data = write_data(tmp_path, "bare", validation=0)
    bare = quick()
    jobs = [
        job("right", write_data(tmp_path, "right"), place="row 1"),
        job("wrong", str(tmp_path / "nowhere.npz"), place="row 2"),
        job("high", data, config=replace(bare, tune=replace(bare.tune, from_block=9)), place="row 3"),
    ]
    with pytest.raises(InvalidSettingError, match=r"^2 of 3 tasks cannot be tuned as they are, and none was") as raised:
        here(shop, jobs, tmp_path / "out")
    assert [note.split(": ")[0] for note in raised.value.__notes__] == ["row 2 (wrong)", "row 3 (high)"]
    names = [job("right", data), job("a b", data), job("right", data), job("new", data, parent="nobody")]
    with pytest.raises(InvalidSettingError, match=r"^4 of 4 tasks") as raised:
        here(shop, names, tmp_path / "out")
    assert "task 'right' occurs 2 times" in raised.value.__notes__[0]
    assert list(shop.versions()) == []
    assert not list((tmp_path / "out").glob("*/cut"))
    with pytest.raises(InvalidSettingError, match="no task is given"):
        here(shop, [], tmp_path / "out")


def test_a_task_that_fails_stops_no_other(shop, tmp_path):
    jobs = [job(name, write_data(tmp_path, name)) for name in ("first", "second", "third")]

    checked = []

    def spoil(done: FitJob, event: FitEvent) -> None:
        if isinstance(event, Checked):
            checked.append((done.task, event.images))
        if isinstance(event, FitOutcome) and done.task == "first":
            Path(jobs[1].data).unlink()

    outcomes = here(shop, jobs, tmp_path / "out", watch=spoil)
    assert [outcome.state for outcome in outcomes] == [PUBLISHED, FAILED, PUBLISHED]
    assert "no file" in outcomes[1].problem
    assert checked == [("first", 40), ("second", 40), ("third", 40)]


def test_without_a_store_the_folders_stay_and_nothing_is_published(shop, tmp_path):
    (outcome,) = here(None, [job("one", write_data(tmp_path))], tmp_path / "out", backbones=shop.root)
    assert (outcome.state, outcome.version) == (TUNED, None)
    assert {path.name for path in outcome.folder.iterdir()} >= {"onetrunk.json", "head.safetensors"}
    assert list(shop.versions()) == []


def test_a_folder_in_which_another_run_works_is_refused(shop, tmp_path):
    with module._alone(tmp_path / "out"), pytest.raises(ConflictError, match="another run works in"):
        here(shop, [job("one", write_data(tmp_path))], tmp_path / "out")


def test_a_search_prunes_settings_by_their_accuracy_on_validation_images(shop, tmp_path):
    choices = {f"lr {rate:g}": quick(5, learning_rate=rate) for rate in (1e-6, 1e-2, 1e-3, 3e-3)}
    wanted = job("one", write_data(tmp_path), choices=choices)
    (outcome,) = here(None, [wanted], tmp_path / "out", backbones=shop.root)
    curves = sorted((tmp_path / "out" / "one" / "settings").glob(f"*/{CURVE}"))
    reached = [len(json.loads(path.read_text())["accuracies"]) for path in curves]
    assert sorted(reached) == [1, 1, 2, 2]  # rungs of one epoch and of two; the fit itself goes on to all five
    assert outcome.choice in choices
    assert outcome.choice != "lr 1e-06"


def test_a_trial_that_ended_between_checkpoint_and_accuracy_begins_again_and_ends_alike(shop, tmp_path):
    choices = {"slow": quick(3, learning_rate=1e-5), "fast": quick(3, learning_rate=1e-2)}
    wanted = job("one", write_data(tmp_path), choices=choices)
    stopped = []

    def stop(_: FitJob, event: FitEvent) -> None:
        if isinstance(event, Progress) and event.stage == "tune":
            stopped.append(event)
            if len(stopped) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here(None, [wanted], tmp_path / "cut off", backbones=shop.root, watch=stop)
    for curve in (tmp_path / "cut off").rglob(CURVE):
        curve.unlink()
    (resumed,) = here(None, [wanted], tmp_path / "cut off", backbones=shop.root)
    (whole,) = here(None, [wanted], tmp_path / "whole", backbones=shop.root)
    assert resumed.choice == whole.choice
    assert contents(resumed.folder) == contents(whole.folder)
