from __future__ import annotations

import pytest
import torch
from support.toy_datasets import colours, toy_backbone

from sls.adapters.model import TunedModel, block_of
from sls.data.dataset import Dataset
from sls.pipeline.retune import truncated, untrained
from sls.progress import Progress
from sls.training.recipe import SCHEDULES, TrainingConfig, rate_at
from sls.training.tune import tune
from store.errors import InvalidSettingError
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform

CONFIG = TrainingConfig(epochs=2, batch=16)


def tuned(dataset: Dataset, backbone: Backbone, config: TrainingConfig = CONFIG) -> tuple[TunedModel, list[Progress]]:
    seen: list[Progress] = []
    transform = make_transform(backbone.record.id.preprocessing)
    start = untrained(dataset, backbone, config)
    return tune(dataset, backbone, start, config, transform=transform, stage="tune", progress=seen.append), seen


def test_the_loss_falls_and_each_epoch_is_reported():
    _, seen = tuned(colours(), toy_backbone(), TrainingConfig(epochs=4, batch=16))
    assert [(p.stage, p.step, p.steps) for p in seen] == [("tune", epoch, 4) for epoch in (1, 2, 3, 4)]
    assert seen[-1].loss < seen[0].loss
    assert 0 <= seen[-1].accuracy <= 1
    assert seen[-1].seconds_left == 0


def test_the_backbone_stays_as_it_is_bit_for_bit():
    backbone = toy_backbone()
    before = {key: value.clone() for key, value in backbone.tensors.items()}
    tuned(colours(), backbone)
    assert all(torch.equal(before[key], value) for key, value in backbone.tensors.items())


def test_only_float32_adapters_of_every_linear_map_come_back():
    backbone = toy_backbone()
    result, _ = tuned(colours(), backbone)
    assert {key.split(".lora_")[0] for key in result.adapter} == {
        f"base_model.model.{m}" for m in backbone.record.modules
    }
    assert {value.dtype for value in (*result.adapter.values(), result.weight, result.bias)} == {torch.float32}


def test_the_same_seed_tunes_the_same_adapter():
    (one, _), (other, _) = tuned(colours(), toy_backbone()), tuned(colours(), toy_backbone())
    assert all(torch.equal(value, other.adapter[key]) for key, value in one.adapter.items())


def test_tuning_leaves_the_random_numbers_of_others_alone():
    before = torch.random.get_rng_state()
    tuned(colours(), toy_backbone())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_task_without_images_to_watch_is_tuned():
    _, seen = tuned(colours(validation=0), toy_backbone())
    assert seen[-1].accuracy is None


def test_tuning_goes_on_from_where_it_is_told():
    backbone, dataset = toy_backbone(), colours()
    full, _ = tuned(dataset, backbone, TrainingConfig(epochs=6, batch=16))
    transform = make_transform(backbone.record.id.preprocessing)
    seen: list[Progress] = []
    config = TrainingConfig(epochs=1, batch=16)
    tune(dataset, backbone, truncated(full, 4), config, transform=transform, stage="retune", progress=seen.append)
    _, fresh = tuned(dataset, backbone, config)
    assert seen[0].loss < fresh[0].loss


def test_a_truncated_task_keeps_its_head_and_the_adapter_up_to_the_depth():
    full, _ = tuned(colours(), toy_backbone())
    cut = truncated(full, 3)
    assert {block_of(key) for key in cut.adapter} == {1, 2, 3}
    assert torch.equal(cut.weight, full.weight)


def test_the_rate_rises_over_a_tenth_of_the_steps_and_falls_to_zero():
    rates = [rate_at(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)


def test_a_constant_schedule_stays_where_it_is():
    assert {SCHEDULES["constant"](step, 100, 0.1) for step in range(101)} == {1.0}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epochs": 0}, {"batch": 0}, {"rank": 0}, {"learning_rate": 0.0}, {"weight_decay": -1}),
        *({"method": "adalora"}, {"schedule": "linear"}, {"from_block": 0}, {"patience": -1}, {"scale": 0.0}),
    ],
)
def test_a_recipe_that_no_run_can_use_is_refused(wrong):
    with pytest.raises(InvalidSettingError, match=next(iter(wrong))):
        TrainingConfig(**wrong)
