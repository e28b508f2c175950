from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.cli import call
from support.oracle import TaskFolder, lowered, make_backbone, make_task, png, reference_logits

from serving.engine.engine import Engine
from serving.runtime import device
from serving.runtime.predictor import Predictor
from serving.runtime.served_backbone import ServedBackbone
from store.errors import (
    BackboneMismatchError,
    BackboneNotFoundError,
    DeadlineError,
    ImageError,
    IntegrityError,
    InvalidSettingError,
    OverloadedError,
    TaskNotFoundError,
)
from store.registry.store import Store
from store.weights.backbones import encode


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def store(backbone, tmp_path):
    """A store of two tasks, depths 2 and 4."""
    with Store.open(tmp_path / "store", create=True) as opened:
        opened.add_backbone(backbone.record, encode(backbone))
        for name, depth in (("short", 2), ("long", 4)):
            made = make_task(backbone, tmp_path / name, depth=depth, classes=3, seed=depth)
            opened.publish(name, made.folder, backbone=backbone.record.name, depth=depth)
        yield opened


def first(predictor: Predictor) -> ServedBackbone:
    return next(iter(predictor._backbones.values()))


IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))


def test_the_answer_carries_task_version_depth_and_labels_with_probabilities_best_first(store):
    with Predictor(store, dtype="float32") as predictor:
        answer = predictor.predict("short", IMAGE)
    shown = answer.to_dict(top=2, logits=True)
    assert (shown["task"], shown["version"], shown["depth"]) == ("short", 1, 2)
    scores = torch.tensor(shown["logits"]).softmax(0)
    best = scores.argsort(descending=True)[:2].tolist()
    assert [entry["label"] for entry in shown["top"]] == [f"class {index}" for index in best]
    assert [entry["score"] for entry in shown["top"]] == pytest.approx(scores[best].tolist())


def test_an_image_may_be_bytes_a_file_or_a_pillow_image(store, tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGE)
    with Predictor(store, batch_invariant=True) as predictor, Image.open(tmp_path / "a.png") as opened:
        logits = {predictor.predict("short", image).logits for image in (IMAGE, tmp_path / "a.png", opened)}
        with pytest.raises(ImageError, match="give the path of an image file"):
            predictor.predict("short", tmp_path / "b.png")
    assert len(logits) == 1


def test_an_exported_folder_gives_stock_peft_the_logits_that_are_served(store, backbone, tmp_path):
    with Predictor(store, dtype="float32") as predictor:
        served = torch.tensor(predictor.predict("long", IMAGE).logits)
        pixels = first(predictor).decoding.decode(IMAGE)
    exported = TaskFolder(store.export("long", tmp_path / "exported"), depth=4)
    (alone,) = reference_logits(backbone, exported, pixels[None])
    torch.testing.assert_close(served, alone, atol=1e-5, rtol=0)


def test_many_threads_asking_at_once_get_what_each_would_get_alone(store, backbone, tmp_path):
    with Predictor(store, dtype="float32") as predictor, ThreadPoolExecutor(8) as clients:
        refs = ["short", "long"] * 20
        answers = list(clients.map(lambda ref: predictor.predict(ref, IMAGE), refs))
        pixels = first(predictor).decoding.decode(IMAGE)[None]
    for ref in ("short", "long"):
        depth = 4 if ref == "long" else 2
        made = make_task(backbone, tmp_path / f"{ref} again", depth=depth, classes=3, seed=depth)
        (alone,) = Engine(backbone).forward(pixels, [lowered(backbone, made)])
        for answer in (answer for asked, answer in zip(refs, answers, strict=True) if asked == ref):
            torch.testing.assert_close(torch.tensor(answer.logits), alone, atol=1e-4, rtol=0)


def test_what_is_wrong_with_one_request_leaves_the_others_alone(store):
    with Predictor(store) as predictor:
        waiting = predictor.submit("short", IMAGE)
        with pytest.raises(ImageError):
            predictor.submit("short", b"no image")
        assert waiting.result().task == "short"
        predictor.check()


def test_one_image_for_many_tasks_gets_what_each_gives_alone_in_the_order_asked(store):
    refs = ["long", "short", "long:1"]
    with Predictor(store, dtype="float32") as predictor:
        answers = [answer.result() for answer in predictor.submit_many(refs, IMAGE)]
        for ref, answer in zip(refs, answers, strict=True):
            alone = predictor.predict(ref, IMAGE)
            assert (answer.task, answer.version, answer.labels) == (alone.task, alone.version, alone.labels)
            assert answer.logits == pytest.approx(alone.logits, abs=1e-5)


def test_predict_with_further_tasks_prints_an_object_for_each_image_and_task(store, tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGE)
    arguments = ("--with", "short", "--with", "long:1", "--dtype", "float32", "--format", "json", "--logits")
    rows = call("predict", "long", str(tmp_path / "a.png"), *arguments, store=store.root).json
    assert [(Path(row["image"]).name, row["task"], row["depth"]) for row in rows] == [
        ("a.png", "long", 4), ("a.png", "short", 2), ("a.png", "long", 4),
    ]  # fmt: skip
    with Predictor(store, dtype="float32") as predictor:
        assert rows[1]["logits"] == pytest.approx(predictor.predict("short", IMAGE).logits, abs=1e-5)


def test_a_request_that_names_no_task_or_one_that_is_not_there_is_refused_and_holds_nothing(store):
    with Predictor(store) as predictor:
        with pytest.raises(InvalidSettingError, match="names no task"):
            predictor.submit_many([], IMAGE)
        with pytest.raises(TaskNotFoundError, match="nothing"):
            predictor.submit_many(["short", "nothing"], IMAGE)
        assert predictor.predict("short", IMAGE).task == "short"


def test_a_deadline_that_is_over_is_refused_before_the_image_is_looked_at(store):
    with Predictor(store) as predictor:
        with pytest.raises(DeadlineError, match="after its deadline"):
            predictor.submit("short", b"no image", deadline=time.monotonic() - 1)
        assert predictor.submit("short", IMAGE, deadline=time.monotonic() + 60).result().task == "short"


def test_with_batch_invariance_an_image_gets_the_same_bytes_alone_and_among_others(store):
    with Predictor(store, dtype="bfloat16", batch_invariant=True) as predictor:
        alone = predictor.predict("long", IMAGE).logits
        batches = [predictor.submit_many(["short", "long"], IMAGE) for _ in range(6)]
        assert all(futures[1].result().logits == alone for futures in batches)


def test_a_damaged_blob_is_named_and_never_served(store):
    blob = store.resolve("short").manifest.adapter.weights
    path = Path(store.blobs.locate(blob))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with Predictor(store) as predictor:
        with pytest.raises(IntegrityError, match="short:1"):
            predictor.predict("short", IMAGE)
        broken, whole = predictor.submit_many(["short", "long"], IMAGE)
        assert isinstance(broken.exception(), IntegrityError)
        assert isinstance(whole.exception(), IntegrityError)
        assert predictor.predict("long", IMAGE).task == "long"


@pytest.fixture
def two_backbones(store, tmp_path):
    """The store with a second backbone of half the blocks, and the task `odd` on it."""
    other = make_backbone(tmp_path / "other", depth=2)
    other = type(other)(dataclasses.replace(other.record, name="other/vit"), other.tensors)
    store.add_backbone(other.record, encode(other))
    made = make_task(other, tmp_path / "odd", depth=1, classes=2)
    store.publish("odd", made.folder, backbone="other/vit", depth=1)
    return store


def test_every_backbone_is_served_and_one_image_may_be_for_tasks_of_several(two_backbones):
    alone = {}
    for backbone, refs in (("random/vit", ("short", "long")), ("other/vit", ("odd",))):
        with Predictor(two_backbones, backbone=backbone, dtype="float32") as predictor:
            alone |= {ref: predictor.predict(ref, IMAGE) for ref in refs}
    refs = ["odd", "short", "long", "odd"] * 10
    with Predictor(two_backbones, dtype="float32") as predictor, ThreadPoolExecutor(4) as clients:
        answers = [answer.result() for answer in predictor.submit_many(refs, IMAGE)]
        answers += clients.map(lambda ref: predictor.predict(ref, IMAGE), refs)
        for ref, answer in zip(refs * 2, answers, strict=True):
            assert (answer.task, answer.depth, answer.labels) == (ref, alone[ref].depth, alone[ref].labels)
            assert answer.logits == pytest.approx(alone[ref].logits, abs=1e-5)
        predictor.check()
        state = predictor.state()
        assert {each.name: each.row_blocks > 0 for each in state.backbones} == {"other/vit": True, "random/vit": True}
        assert state.row_blocks == sum(each.row_blocks for each in state.backbones)
        assert state.engine_calls == sum(each.engine_calls for each in state.backbones)
        for version in predictor.tasks.resolve(["odd", "short"]):
            assert predictor.preprocessing(version).height == 32


def test_a_task_of_a_backbone_that_is_not_served_is_refused(two_backbones):
    with (
        Predictor(two_backbones, backbone="random/vit") as predictor,
        pytest.raises(BackboneMismatchError, match="other/vit"),
    ):
        predictor.predict("odd", IMAGE)


def test_backbones_that_do_not_fit_into_memory_together_are_refused(two_backbones, monkeypatch):
    monkeypatch.setattr(device, "memory_nbytes", lambda: 1000)
    with pytest.raises(InvalidSettingError, match=r"2 backbones take [\d,]+ bytes, .* `backbone=`"):
        Predictor(two_backbones)
    with Predictor(two_backbones, backbone=["other/vit"]) as predictor:
        assert predictor.predict("odd", IMAGE).depth == 1


def test_an_empty_store_and_an_unknown_dtype_are_refused(tmp_path, store):
    with Store.open(tmp_path / "empty", create=True) as empty, pytest.raises(BackboneNotFoundError, match="publish"):
        Predictor(empty)
    with pytest.raises(InvalidSettingError, match="'float16' is not supported: use auto or one of float32, bfloat16"):
        Predictor(store, dtype="float16")


def test_closing_answers_what_is_queued_and_ends_the_thread(store):
    predictor = Predictor(store)
    waiting = [predictor.submit("short", IMAGE) for _ in range(5)]
    predictor.close()
    assert all(future.result().task == "short" for future in waiting)
    assert not any(thread.name == "engine" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="restart"):
        predictor.check()
    with pytest.raises(OverloadedError, match="stopping"):
        predictor.submit("short", IMAGE)
