"""What a fit that would not be published is told before it is tuned, and what paths and names may be."""

from __future__ import annotations

import pytest
from support.toy_backbone import publish
from support.toy_datasets import colours

import onetrunk
from onetrunk.workflows import check_publishable
from store.errors import (
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    ReadOnlyStoreError,
)


@pytest.fixture
def no_tuning(monkeypatch):
    """Fail where the tuning begins."""

    def begin(*_: object, **__: object) -> None:
        raise AssertionError("it was tuned")

    monkeypatch.setattr("sls.pipeline.fit.fit", begin)


@pytest.mark.usefixtures("no_tuning")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"task": "a/b/c"}, InvalidNameError),
        ({"aliases": ("../prod",)}, InvalidNameError),
        ({"aliases": "prod"}, InvalidSettingError),
        ({"aliases": ("prod",)}, NotAllowedError),
        ({"parent": "flowers:9"}, NotFoundError),
    ],
)
def test_what_could_not_be_published_is_refused_before_it_is_tuned(store, folder, arguments, error):
    publish(store, folder)
    store.set_rule(onetrunk.AliasRule("flowers", "prod", protected=True))
    with pytest.raises(error):
        onetrunk.fit_and_publish(store, **{"task": "flowers", "dataset": colours(), "backbone": "toy/vit", **arguments})


@pytest.mark.usefixtures("no_tuning")
def test_a_store_that_cannot_be_written_is_refused_before_it_is_tuned(store):
    store.read_only = True
    with pytest.raises(ReadOnlyStoreError):
        onetrunk.fit_and_publish(store, "flowers", colours(), backbone="toy/vit")


def test_a_protected_alias_may_be_moved_by_force(store):
    store.set_rule(onetrunk.AliasRule("flowers", "prod", protected=True))
    check_publishable(store, "flowers", ("prod",), force=True)


@pytest.mark.usefixtures("no_tuning")
def test_a_gate_that_needs_what_the_fit_does_not_measure_is_refused_before_it_is_tuned(store):
    store.set_rule(onetrunk.AliasRule("flowers", "prod", max_drop=2.0))
    config = onetrunk.FitConfig(when="before")
    with pytest.raises(onetrunk.errors.GateError, match=r"tunes no model at full depth .*fit it with `max_drop=`"):
        onetrunk.fit_and_publish(store, "flowers", colours(), backbone="toy/vit", config=config, aliases=("prod",))
    check_publishable(
        store, "flowers", ("prod",), drop_known=onetrunk.FitConfig(when="before", max_drop=1).measures_drop
    )


QUICK = onetrunk.FitConfig(
    tune=onetrunk.TrainingConfig(epochs=1), score=onetrunk.ScoreConfig(criterion="cka"), retune_mode="none"
)


class LostDatabaseError(Exception):
    """Stands for whatever may fail at the end."""


@pytest.mark.parametrize("failure", [LostDatabaseError, OSError, KeyboardInterrupt])
def test_a_tuned_task_is_kept_whatever_fails_at_the_end(store, monkeypatch, failure):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(store.catalogue, "publish", fail)
    with pytest.raises(failure) as caught:
        onetrunk.fit_and_publish(store, "flowers", colours(), backbone="toy/vit", config=QUICK)
    (note,) = caught.value.__notes__
    kept = note.removeprefix("the tuned task is kept in ").partition(": ")[0]
    monkeypatch.undo()
    assert onetrunk.publish_folder(store, "flowers", kept).number == 1


def test_a_fit_that_is_interrupted_after_an_epoch_keeps_it(store):
    def interrupt(step: onetrunk.Progress) -> None:
        if step.stage == "score":
            raise KeyboardInterrupt

    arguments = {"backbone": "toy/vit", "config": QUICK}
    with pytest.raises(KeyboardInterrupt) as caught:
        onetrunk.fit_and_publish(store, "flowers", colours(), **arguments, progress=interrupt)
    (note,) = caught.value.__notes__
    kept = note.removeprefix("what was tuned so far is kept in ").partition(": ")[0]
    stages: list[str] = []
    onetrunk.fit_and_publish(
        store, "flowers", colours(), **arguments, out=kept, progress=lambda s: stages.append(s.stage)
    )
    assert "tune" not in stages


def test_a_fit_that_fails_before_its_first_epoch_leaves_nothing(store, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    config = onetrunk.FitConfig(tune=onetrunk.TrainingConfig(from_block=9))
    with pytest.raises(InvalidSettingError, match="adapters from block 9"):
        onetrunk.fit_and_publish(store, "flowers", colours(), backbone="toy/vit", config=config)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_tuned_task_that_is_refused_is_kept_and_the_error_says_where(store):
    config = QUICK
    store.set_rule(onetrunk.AliasRule("flowers", "prod", min_accuracy=1.0))
    hard = colours(spread=400)
    with pytest.raises(onetrunk.errors.GateError) as caught:
        onetrunk.fit_and_publish(store, "flowers", hard, backbone="toy/vit", config=config, aliases=("prod",))
    (note,) = caught.value.__notes__
    kept = note.removeprefix("the tuned task is kept in ").partition(": ")[0]
    assert onetrunk.publish_folder(store, "flowers", kept).number == 1


def test_paths_may_be_strings(store, folder, tmp_path):
    version = store.publish("flowers", str(folder), backbone="toy/vit", depth=2)
    assert store.export("flowers", str(tmp_path / "out")) == tmp_path / "out"
    onetrunk.export_bundle(store, ["flowers"], str(tmp_path / "bundle"))
    assert [each.digest for each in onetrunk.import_bundle(store, str(tmp_path / "bundle"))] == [version.digest]


@pytest.mark.parametrize("depth", [2.0, "2", True])
def test_a_depth_is_a_whole_number(store, folder, depth):
    with pytest.raises(InvalidSettingError, match="is not a whole number: give how many blocks run"):
        store.publish("flowers", folder, backbone="toy/vit", depth=depth)
    assert store.versions() == []


@pytest.mark.parametrize("version", ["1", 1.0, True])
def test_the_version_of_a_tag_is_a_whole_number(store, folder, version):
    publish(store, folder)
    with pytest.raises(InvalidSettingError, match="is not a whole number from 1 to"):
        store.set_tag("flowers", "team", "garden", version=version)
    assert onetrunk.verify(store) == []


def test_one_string_is_no_list_of_names(store, folder, tmp_path):
    with pytest.raises(InvalidSettingError, match=r"aliases 'prod' is one string: give a tuple, \('prod',\)"):
        store.publish("flowers", folder, backbone="toy/vit", depth=2, aliases="prod")
    with pytest.raises(InvalidSettingError, match="scopes 'read' is one string"):
        onetrunk.new_key(None, "read")
    with pytest.raises(InvalidSettingError, match="refs 'flowers' is one string"):
        onetrunk.export_bundle(store, "flowers", tmp_path / "bundle")


def test_what_a_reader_cannot_do_is_refused_with_the_way_to_open_the_store(store, folder):
    publish(store, folder)
    with onetrunk.open_read_only(store.url) as reader:
        for call in (onetrunk.verify, onetrunk.collect_garbage, lambda each: check_publishable(each, "flowers")):
            with pytest.raises(ReadOnlyStoreError, match=r"opened to read alone: open it with `open_store\(url\)`"):
                call(reader)
