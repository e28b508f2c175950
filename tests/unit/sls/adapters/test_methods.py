from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support.custom_tasks import CUSTOM
from support.toy_datasets import InterruptionError, colours, same, toy_backbone

from sls.adapters.methods import METHODS
from sls.adapters.model import Tuned, block_of, linear
from sls.adapters.task_folder import read_folder, write_folder
from sls.progress import Progress
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.adapters.checkpoint import check, read_checkpoint
from store.errors import InvalidSettingError
from store.weights.preprocessing import make_transform

BACKBONE = toy_backbone()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
TASK = colours(train=30, validation=0, test=6)
IMAGES = TASK.test.inputs(range(6), TRANSFORM)
OF_PEFT = ["lora", "rslora", "dora", "ia3", "vera", "ln", "repadapter"]
NEAR_ZERO = ("houlsby", "adapter+")  # as their papers start them
every_method = pytest.mark.parametrize("method", METHODS)


def fresh(method: str, depth: int = 4, **options: object) -> Tuned:
    classes = len(TASK.classes)
    weight = torch.randn(classes, BACKBONE.record.dim, generator=torch.Generator().manual_seed(1)) / 8
    return Tuned(depth, 8, {}, weight, torch.zeros(classes), **{"method": method, **options})


@cache
def tuned(method: str, from_block: int = 1) -> tuple[Tuned, tuple[Progress, ...]]:
    seen: list[Progress] = []
    recipe = TrainingConfig(epochs=3, batch=15, learning_rate=5e-3, method=method, from_block=from_block, scale=0.5)
    found = tune(TASK, BACKBONE, fresh(method), recipe, transform=TRANSFORM, stage="tune", report=seen.append)
    return found, tuple(seen)


def truncated(whole: Tuned, depth: int) -> Tuned:
    return replace(whole, depth=depth, adapter={k: v for k, v in whole.adapter.items() if block_of(k) <= depth})


@torch.inference_mode()
def logits_of(whole: Tuned, dtype: torch.dtype = torch.float32, depth: int | None = None) -> torch.Tensor:
    """The trained model itself, its blocks above `depth` taken off after the adapters went in."""
    vit = METHODS[whole.method].wrap(BACKBONE, whole, dtype).vit.eval()
    vit.blocks = vit.blocks[: depth or whole.depth]
    return linear(whole.weight, whole.bias)(vit(IMAGES.to(dtype)).float())


@torch.inference_mode()
def logits_of_stock_peft(folder: Path, whole: Tuned) -> torch.Tensor:
    vit = BACKBONE.build()
    vit.blocks = vit.blocks[: whole.depth]
    model = PeftModel.from_pretrained(vit, str(folder)).eval()
    return model(IMAGES) @ whole.weight.T + whole.bias


@every_method
def test_a_method_tunes_and_its_adapter_does_something(method):
    found, seen = tuned(method)
    assert seen[-1].loss < seen[0].loss
    assert (found.method, found.from_block) == (method, 1)
    assert {block_of(key) for key in found.adapter} - {0} == {1, 2, 3, 4}
    assert {value.dtype for value in found.adapter.values()} == {torch.float32}
    assert (logits_of(found) - logits_of(replace(found, adapter={}))).abs().max() > 1e-2


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
    write_folder(tmp_path, BACKBONE, whole, TASK.classes)
    expected = logits_of(whole)
    torch.testing.assert_close(logits_of_stock_peft(tmp_path, whole), expected, atol=1e-4, rtol=0)


@every_method
@pytest.mark.parametrize("depth", [1, 3])
def test_a_folder_of_a_cut_reads_back_as_the_full_model_stopped_there(tmp_path, method, depth):
    whole, _ = tuned(method)
    cut = truncated(whole, depth)
    write_folder(tmp_path, BACKBONE, cut, TASK.classes)
    model = read_folder(tmp_path, BACKBONE, depth=depth)
    with torch.inference_mode():
        found = model.head(model.vit(IMAGES))
    torch.testing.assert_close(found, logits_of(whole, depth=depth), atol=1e-4, rtol=0)
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
        write_folder(tmp_path / name, BACKBONE, each, TASK.classes)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


@every_method
def test_what_was_tuned_is_served(tmp_path, method):
    write_folder(tmp_path, BACKBONE, tuned(method)[0], TASK.classes)
    fit = check(read_checkpoint(tmp_path), BACKBONE.record, 4)
    # RepAdapter is stored as the LoRA that it is, and rsLoRA is a LoRA of another scaling
    names = {"rslora": "lora", "repadapter": "lora"}
    assert fit.method == names.get(method, method)
    assert {block_of(f"{module}.") for module in fit.ranks} == {1, 2, 3, 4}


@every_method
def test_adapters_start_at_the_block_that_the_recipe_names(method):
    found, seen = tuned(method, 3)
    assert {block_of(key) for key in found.adapter} - {0} == {3, 4}
    assert seen[-1].loss < seen[0].loss


@every_method
def test_tuning_goes_on_from_the_adapter_of_a_cut(method):
    cut = truncated(tuned(method)[0], 3)
    recipe, seen = TrainingConfig(epochs=1, batch=30, learning_rate=1e-6, schedule="constant"), []
    found = tune(TASK, BACKBONE, cut, recipe, transform=TRANSFORM, stage="retune", report=seen.append)
    assert (found.method, found.adapter.keys()) == (method, cut.adapter.keys())
    for key, value in cut.adapter.items():
        torch.testing.assert_close(found.adapter[key], value, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("method", CUSTOM)
def test_a_run_that_was_interrupted_comes_to_the_same_bits(tmp_path, method):
    recipe = TrainingConfig(epochs=2, batch=15, method=method, from_block=2)

    def run(path: Path | None, until: int = 99) -> Tuned:
        def report(progress: Progress) -> None:
            if progress.step == until:
                raise InterruptionError

        start = fresh("lora", 3)
        return tune(TASK, BACKBONE, start, recipe, transform=TRANSFORM, stage="tune", report=report, checkpoint=path)

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
