from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.custom_tasks import CUSTOM
from support.toy_datasets import InterruptionError, colours, same, toy_backbone

from serving.engine.engine import Engine
from sls.adapters.methods import METHODS
from sls.adapters.model import TunedModel, block_of, linear
from sls.adapters.task_folder import DTYPES, read_folder, write_folder
from sls.progress import Progress
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.adapters.checkpoint import HEAD, WEIGHTS, check, read_checkpoint
from store.errors import InvalidSettingError
from store.weights.lowering.lower import lower
from store.weights.preprocessing import make_transform

BACKBONE = toy_backbone()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
DATASET = colours(train=30, validation=0, test=6)
IMAGES = DATASET.test.inputs(range(6), TRANSFORM)
OF_PEFT = ["lora", "rslora", "dora", "ia3", "vera", "ln", "repadapter"]
NEAR_ZERO = ("houlsby", "adapter+")  # as their papers start them
every_method = pytest.mark.parametrize("method", METHODS)


def fresh(method: str, depth: int = 4, **options: object) -> TunedModel:
    classes = len(DATASET.classes)
    weight = torch.randn(classes, BACKBONE.record.dim, generator=torch.Generator().manual_seed(1)) / 8
    return TunedModel(depth, 8, {}, weight, torch.zeros(classes), **{"method": method, **options})


@cache
def tuned(method: str, from_block: int = 1) -> tuple[TunedModel, tuple[Progress, ...]]:
    seen: list[Progress] = []
    config = TrainingConfig(epochs=3, batch=15, learning_rate=5e-3, method=method, from_block=from_block, scale=0.5)
    result = tune(DATASET, BACKBONE, fresh(method), config, transform=TRANSFORM, stage="tune", progress=seen.append)
    return result, tuple(seen)


def truncated(whole: TunedModel, depth: int) -> TunedModel:
    return replace(whole, depth=depth, adapter={k: v for k, v in whole.adapter.items() if block_of(k) <= depth})


@torch.inference_mode()
def logits_of(whole: TunedModel, dtype: torch.dtype = torch.float32, depth: int | None = None) -> torch.Tensor:
    """The trained model itself, its blocks above `depth` taken off after the adapters went in."""
    vit = METHODS[whole.method].wrap(BACKBONE, whole, dtype).vit.eval()
    vit.blocks = vit.blocks[: depth or whole.depth]
    return linear(whole.weight, whole.bias)(vit(IMAGES.to(dtype)).float())


@torch.inference_mode()
def logits_of_stock_peft(folder: Path, whole: TunedModel) -> torch.Tensor:
    vit = BACKBONE.build()
    vit.blocks = vit.blocks[: whole.depth]
    model = PeftModel.from_pretrained(vit, str(folder)).eval()
    return model(IMAGES) @ whole.weight.T + whole.bias


@every_method
def test_a_method_tunes_and_its_adapter_does_something(method):
    result, seen = tuned(method)
    assert seen[-1].loss < seen[0].loss
    assert (result.method, result.from_block) == (method, 1)
    assert {block_of(key) for key in result.adapter} - {0} == {1, 2, 3, 4}
    assert {value.dtype for value in result.adapter.values()} == {torch.float32}
    assert (logits_of(result) - logits_of(replace(result, adapter={}))).abs().max() > 1e-2


@every_method
def test_a_fresh_adapter_changes_nothing(method):
    start = fresh(method)
    with torch.inference_mode():
        plain = linear(start.weight, start.bias)(BACKBONE.build()(IMAGES))
    torch.testing.assert_close(logits_of(start), plain, atol=1e-2 if method in NEAR_ZERO else 1e-5, rtol=0)


@pytest.mark.parametrize("method", OF_PEFT)
@pytest.mark.parametrize("depth", [2, 4])
def test_a_folder_is_loaded_by_stock_peft_with_the_logits_of_the_trained_model(tmp_path, method, depth):
    whole = truncated(tuned(method)[0], depth)
    write_folder(tmp_path, BACKBONE, whole, DATASET.classes)
    expected = logits_of(whole)
    torch.testing.assert_close(logits_of_stock_peft(tmp_path, whole), expected, atol=1e-4, rtol=0)


@every_method
@pytest.mark.parametrize("depth", [1, 3])
def test_a_folder_of_a_cut_reads_back_as_the_full_model_stopped_there(tmp_path, method, depth):
    whole, _ = tuned(method)
    cut = truncated(whole, depth)
    write_folder(tmp_path, BACKBONE, cut, DATASET.classes)
    model = read_folder(tmp_path, BACKBONE, depth=depth)
    with torch.inference_mode():
        logits = model.head(model.vit(IMAGES))
    torch.testing.assert_close(logits, logits_of(whole, depth=depth), atol=1e-4, rtol=0)
    assert len(model.vit.blocks) == depth


@every_method
def test_the_tuned_weights_say_much_the_same_in_bfloat16(method):
    whole, _ = tuned(method)
    exact, rounded = logits_of(whole), logits_of(whole, torch.bfloat16)
    assert (exact - rounded).abs().max() < 0.05 * (exact.max() - exact.min())


@every_method
def test_equal_tensors_are_written_as_equal_bytes(tmp_path, method):
    whole, _ = tuned(method)
    backwards = replace(whole, adapter=dict(reversed(whole.adapter.items())))
    for name, each in (("one", whole), ("other", backwards)):
        write_folder(tmp_path / name, BACKBONE, each, DATASET.classes)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


@every_method
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_folder_of_16_bits_holds_the_rounded_numbers_and_the_engine_reads_them(tmp_path, method, name):
    whole, dtype = truncated(tuned(method)[0], 2), DTYPES[name]
    for stem, kind in (("exact", torch.float32), ("rounded", dtype)):
        write_folder(tmp_path / stem, BACKBONE, whole, DATASET.classes, dtype=kind)
    for file in (WEIGHTS, HEAD):
        exact, rounded = load_file(tmp_path / "exact" / file), load_file(tmp_path / "rounded" / file)
        assert {value.dtype for value in rounded.values()} == {dtype}
        assert all(torch.equal(value.to(dtype), rounded[key]) for key, value in exact.items())
    assert (tmp_path / "rounded" / WEIGHTS).stat().st_size < 0.7 * (tmp_path / "exact" / WEIGHTS).stat().st_size
    model, made = read_folder(tmp_path / "rounded", BACKBONE, depth=2), read_checkpoint(tmp_path / "rounded")
    files = {"config": made.config, "adapter": made.weights, "head": made.head, "labels": made.labels}
    weights = lower(**files, depth=2, backbone=BACKBONE.tensors)
    with torch.inference_mode():
        expected = model.head(model.vit(IMAGES))
    served = torch.stack(Engine(BACKBONE).forward(IMAGES, [weights] * len(IMAGES)))
    torch.testing.assert_close(served, expected, atol=1e-4, rtol=0)


@every_method
def test_what_was_tuned_is_served(tmp_path, method):
    write_folder(tmp_path, BACKBONE, tuned(method)[0], DATASET.classes)
    fit = check(read_checkpoint(tmp_path), BACKBONE.record, 4)
    # RepAdapter is stored as the LoRA that it is, and rsLoRA is a LoRA of another scaling
    names = {"rslora": "lora", "repadapter": "lora"}
    assert fit.method == names.get(method, method)
    assert {block_of(f"{module}.") for module in fit.ranks} == {1, 2, 3, 4}


@every_method
def test_adapters_start_at_the_block_that_the_recipe_names(method):
    result, seen = tuned(method, 3)
    assert {block_of(key) for key in result.adapter} - {0} == {3, 4}
    assert seen[-1].loss < seen[0].loss


@every_method
def test_tuning_goes_on_from_the_adapter_of_a_cut(method):
    cut = truncated(tuned(method)[0], 3)
    config, seen = TrainingConfig(epochs=1, batch=30, learning_rate=1e-6, schedule="constant"), []
    result = tune(DATASET, BACKBONE, cut, config, transform=TRANSFORM, stage="retune", progress=seen.append)
    assert (result.method, result.adapter.keys()) == (method, cut.adapter.keys())
    for key, value in cut.adapter.items():
        torch.testing.assert_close(result.adapter[key], value, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("method", CUSTOM)
def test_a_run_that_was_interrupted_comes_to_the_same_bits(tmp_path, method):
    config = TrainingConfig(epochs=2, batch=15, method=method, from_block=2)

    def run(path: Path | None, until: int = 99) -> TunedModel:
        def report(progress: Progress) -> None:
            if progress.step == until:
                raise InterruptionError

        start = fresh("lora", 3)
        return tune(
            DATASET, BACKBONE, start, config, transform=TRANSFORM, stage="tune", progress=report, checkpoint=path
        )

    with pytest.raises(InterruptionError):
        run(tmp_path / "run", until=1)
    assert same(run(tmp_path / "run"), run(None))


def test_a_cut_keeps_the_projections_that_vera_shares():
    whole, _ = tuned("vera")
    shared = {key for key in truncated(whole, 1).adapter if block_of(key) == 0}
    assert shared == {"base_model.vera_A", "base_model.vera_B"}


@pytest.mark.parametrize("from_block", [3, 4])
def test_a_cut_below_the_first_adapted_block_is_refused(from_block):
    with pytest.raises(InvalidSettingError, match=rf"from block {from_block} of 2: .*choose 1\.\.2"):
        METHODS["lora"].wrap(BACKBONE, fresh("lora", 2, from_block=from_block), torch.float32)


def test_a_method_that_is_none_is_refused_with_the_list():
    with pytest.raises(InvalidSettingError, match="'adalora' is unknown: choose one of lora, rslora"):
        TrainingConfig(method="adalora")
