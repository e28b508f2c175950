from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.toy_datasets import InterruptionError, colours, same, toy_backbone

from sls.adapters.methods import METHODS
from sls.adapters.model import AdaptedModel, TunedModel, linear
from sls.data.dataset import Dataset, Split
from sls.progress import Progress
from sls.training.frozen_prefix import FeatureSource
from sls.training.recipe import TrainingConfig
from sls.training.trainer import Trainer, to_bfloat16
from sls.training.tune import tune
from store.errors import ConflictError, DataError, FormatError
from store.weights.preprocessing import make_transform

BACKBONE = toy_backbone()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
DATASET = colours(train=16, validation=6, test=3)
BACKWARDS = Split(DATASET.train.images[::-1], DATASET.train.labels[::-1].copy())
CONFIG = TrainingConfig(epochs=3, batch=8, patience=2, method="repadapter")
"""Of the methods that draw random numbers at every step."""


def start(depth: int = 2) -> TunedModel:
    return TunedModel(depth, 8, {}, torch.zeros(3, BACKBONE.record.dim), torch.zeros(3))


def run(
    config: TrainingConfig = CONFIG,
    checkpoint: Path | None = None,
    *,
    until: int = 99,
    dataset: Dataset = DATASET,
    begin: TunedModel | None = None,
) -> tuple[TunedModel, list[Progress]]:
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(replace(progress, seconds_left=0.0))
        if progress.step == until:
            raise InterruptionError

    tuned = tune(
        dataset,
        BACKBONE,
        begin or start(),
        config,
        transform=TRANSFORM,
        stage="tune",
        progress=report,
        checkpoint=checkpoint,
    )
    return tuned, seen


@pytest.mark.parametrize(
    "config", [CONFIG, TrainingConfig(epochs=3, batch=8, from_block=2, schedule="constant")], ids=str
)
def test_a_run_that_was_interrupted_after_any_epoch_comes_to_the_same_bits(tmp_path, config):
    whole, seen = run(config)
    for until in (1, 2):
        path = tmp_path / f"{until}"
        with pytest.raises(InterruptionError):
            run(config, path, until=until)
        resumed, rest = run(config, path)
        assert same(resumed, whole)
        assert rest == seen[until:]


def test_a_run_that_is_interrupted_every_time_comes_to_the_same_bits(tmp_path):
    whole, _ = run()
    for epoch in (1, 2):
        with pytest.raises(InterruptionError):
            run(checkpoint=tmp_path / "run", until=epoch)
    assert same(run(checkpoint=tmp_path / "run")[0], whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_is_done_is_not_run_again(tmp_path):
    whole, _ = run(checkpoint=tmp_path / "run")
    again, seen = run(checkpoint=tmp_path / "run")
    assert same(whole, again)
    assert seen == []


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("recipe", {"config": replace(CONFIG, learning_rate=1e-3)}),
        ("recipe", {"config": replace(CONFIG, epochs=4)}),
        ("start", {"begin": start(3)}),
        ("start", {"begin": replace(start(), bias=torch.ones(3))}),
        ("data", {"dataset": replace(DATASET, train=BACKWARDS)}),
        ("data", {"dataset": replace(DATASET, validation=DATASET.test)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, part, change):
    with pytest.raises(InterruptionError):
        run(checkpoint=tmp_path / "run", until=1)
    with pytest.raises(ConflictError, match=f"another {part}: remove it or give another path"):
        run(checkpoint=tmp_path / "run", **change)


@pytest.mark.parametrize("spoil", [lambda data: data[:0], lambda data: data[:-1], lambda data: b"\x80\x04" + data[2:]])
def test_a_damaged_checkpoint_is_refused(tmp_path, spoil):
    with pytest.raises(InterruptionError):
        run(checkpoint=tmp_path / "run", until=1)
    (tmp_path / "run").write_bytes(spoil((tmp_path / "run").read_bytes()))
    with pytest.raises(FormatError, match="not a valid training checkpoint"):
        run(checkpoint=tmp_path / "run")


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "run")
    with pytest.raises(FormatError, match="not a valid training checkpoint"):
        run(checkpoint=tmp_path / "run")


# ------------------------------------------------------------------------------------------------- early stopping


def test_training_stops_when_patience_is_out_and_the_best_epoch_is_kept():
    # a rate that ruins what the first epochs found
    config = TrainingConfig(epochs=12, batch=24, learning_rate=0.5, schedule="constant", patience=2, seed=1)
    kept, seen = run(config, dataset=colours(train=24, validation=30, spread=30))
    accuracies = [progress.accuracy for progress in seen]
    best = accuracies.index(max(accuracies))
    assert len(seen) == best + 1 + 2 < 12
    short, _ = run(replace(config, epochs=best + 1, patience=0), dataset=colours(train=24, validation=30, spread=30))
    assert same(kept, short)


def test_without_patience_the_last_epoch_is_kept():
    patient, seen = run(replace(CONFIG, patience=99))
    last, again = run(replace(CONFIG, patience=0))
    assert [p.loss for p in seen] == [p.loss for p in again]
    best = max(range(3), key=lambda epoch: (seen[epoch].accuracy, -epoch))
    assert same(patient, last) is (best == 2)


def test_patience_without_images_to_watch_is_refused():
    with pytest.raises(DataError, match="patience 2 needs validation images"):
        run(dataset=colours(train=6, validation=0))


# ------------------------------------------------------------------------------------------------- frozen blocks


def trained(frozen: int, method: str) -> list[torch.Tensor]:
    """Train adapters in blocks 3 and 4 for two epochs; the blocks below run each time unless `frozen`."""
    torch.manual_seed(0)
    begin = replace(start(4), method=method, from_block=3)
    model = AdaptedModel(METHODS[method].wrap(BACKBONE, begin, torch.bfloat16).vit, linear(begin.weight, begin.bias))
    trainer = Trainer(
        model,
        to_bfloat16(model),
        FeatureSource(model.vit, DATASET.train, TRANSFORM, frozen=frozen),
        TrainingConfig(epochs=2, batch=6),
    )
    for _ in range(2):
        trainer.run_epoch()
    return trainer.masters


@pytest.mark.parametrize("method", ["lora", "repadapter", "convpass", "adapter+", "ssf"])
def test_computing_frozen_blocks_once_gives_the_weights_of_computing_them_each_time(method):
    once, each_time = trained(2, method), trained(0, method)
    assert all(torch.equal(a, b) for a, b in zip(once, each_time, strict=True))


def test_images_are_read_once_below_the_adapters():
    seen: list[object] = []

    def counting(image: object) -> torch.Tensor:
        seen.append(image)
        return TRANSFORM(image)

    config = TrainingConfig(epochs=2, batch=16, from_block=2)
    tune(DATASET, BACKBONE, start(), config, transform=counting, stage="tune", progress=lambda _: None)
    assert len(seen) == len(DATASET.train) + len(DATASET.validation)


def test_the_order_of_the_images_is_drawn_again_for_every_epoch():
    vit = METHODS["lora"].wrap(BACKBONE, start(), torch.bfloat16).vit
    model = AdaptedModel(vit, linear(start().weight, start().bias))
    trainer = Trainer(
        model, to_bfloat16(model), FeatureSource(model.vit, DATASET.train, TRANSFORM, frozen=0), TrainingConfig(batch=8)
    )
    before = trainer.order.bit_generator.state
    trainer.run_epoch()
    assert trainer.order.bit_generator.state != before
    assert np.random.default_rng(0).bit_generator.state == before
