"""Heads and units that tasks keep in the kernel: the same bytes as at full width with zeros, at the price of slices."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.formula_oracle import random_weights
from support.kernel_cases import (
    Batch,
    best_library,
    in_bfloat16,
    kernel_engine,
    random_backbone,
    random_batch,
    sizes_of,
)
from support.narrow_twin import narrow_twin
from support.oracle import make_backbone
from support.widened import widen

from serving.kernel.kept import Slots, kept_of_block
from serving.kernel.rows import KernelRow, by_work
from serving.kernel.support import SLICE
from sls.width.search import GROUP
from store.errors import RefusedError
from store.records.width import WidthIndex
from store.weights.forms import Delta, Forms, Kept, TaskWeights
from store.weights.width import kept_of

DIM, HEADS, UNITS, BLOCKS = 96, 3, 384, 2
SEEDS = st.integers(0, 2**20)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    return make_backbone(folder, embed_dim=DIM, num_heads=HEADS, depth=BLOCKS, img_size=16, patch_size=4)


@pytest.fixture(scope="module")
def engine(backbone):
    return kernel_engine(backbone, best_library())


def prefix_task(backbone, heads: int, units: int, seed: int = 0) -> TaskWeights:
    masks = [((1 << heads) - 1, (1 << units) - 1)] * BLOCKS
    width = WidthIndex.of(masks, **sizes_of(backbone))
    weights = random_weights(narrow_twin(backbone, width), seed, depth=BLOCKS, ranks=(32,))
    deltas = {path: Delta(delta.a, delta.b) for path, delta in weights.forms.deltas.items()}
    return in_bfloat16(replace(weights, forms=Forms(deltas, kept=kept_of(width))))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(SEEDS)
def test_rows_of_any_widths_have_the_bytes_of_full_width_with_zeros(seed: int) -> None:
    backbone = random_backbone(seed, 4000)
    batch = random_batch(backbone, seed, rows=random.Random(seed).randint(2, 9))
    size = int(backbone.record.dim) // sizes_of(backbone)["heads"]
    wide = [replace(task, forms=widen(task.forms, head_dim=size, dtype=torch.bfloat16)) for task in batch.tasks]
    engine = kernel_engine(backbone, best_library(), threads=1 + seed % 3)
    narrow = engine.forward(batch.images, batch.tasks, batch.image_of)
    zeros = engine.forward(batch.images, wide, batch.image_of)
    assert all(torch.equal(one, other) for one, other in zip(narrow, zeros, strict=True)), backbone.record.id.arguments


@pytest.mark.parametrize("seed", range(3))
def test_an_image_of_nan_reaches_no_other_row_whatever_it_keeps(seed):
    backbone = random_backbone(40 + seed, 3000)
    batch = random_batch(backbone, 40 + seed, rows=8)
    own = Batch(batch.tasks, batch.images, list(range(8)), batch.twins)
    engine = kernel_engine(backbone, best_library(), threads=1 + seed % 2)
    before = engine.forward(own.images, own.tasks, own.image_of)
    own.images[3] = float("nan")
    after = engine.forward(own.images, own.tasks, own.image_of)
    assert after[3].isnan().all()
    assert all(torch.equal(one, other) for row, (one, other) in enumerate(zip(before, after, strict=True)) if row != 3)


def test_first_units_in_whole_slices_take_no_zeros_and_their_arrays_have_the_pruned_shape(backbone, engine):
    half, whole = prefix_task(backbone, 2, UNITS // 2), prefix_task(backbone, HEADS, UNITS)
    packed, full = engine.prepare(half), engine.prepare(whole)
    kept = kept_of_block(half.forms, 0, heads=HEADS, dim=DIM, units=UNITS, prefix=1, tokens=17)
    for name in ("attn.proj", "mlp.fc2"):
        delta = kept.in_slices(name, half.forms.deltas[f"blocks.0.{name}"])
        assert delta is not None
        assert delta.in_scale is None
        assert torch.equal(delta.a, half.forms.deltas[f"blocks.0.{name}"].a)
    assert packed.work < 0.6 * full.work
    assert packed.nbytes < 0.75 * full.nbytes


@pytest.mark.parametrize("seed", range(20))
def test_slices_are_those_of_which_something_is_kept(seed):
    draw = random.Random(seed)
    total = draw.randint(1, 300)
    kept = sorted(draw.sample(range(total), draw.randint(1, total)))
    slots = Slots.of(np.array(kept), total)
    slices = sorted({number // 32 for number in kept})
    expected = [slices.index(s) if s in slices else -1 for s in range(-(-total // 32))]
    assert slots.at.tolist() == expected
    values = torch.arange(1, len(kept) + 1)
    spread = slots.spread(values, 0, 0)
    assert spread is not None
    assert len(spread) == 32 * len(slices)
    assert [int(spread[slices.index(n // 32) * 32 + n % 32]) for n in kept] == values.tolist()
    assert int((spread != 0).sum()) == len(kept)


KEPT = {
    "no unit": {"blocks.0.mlp": Kept(0, UNITS)},
    "units beyond the last": {"blocks.0.mlp": Kept(1 << UNITS, UNITS)},
    "a head beyond the last": {"blocks.1.attn": Kept(0b1001, HEADS)},
    "heads of another backbone": {"blocks.1.attn": Kept(0b11, HEADS + 1)},
    "units of another backbone": {"blocks.0.mlp": Kept(1, 2 * UNITS)},
    "a negative mask": {"blocks.0.mlp": Kept(-1, UNITS)},
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_masks_that_are_not_the_backbones_are_refused_before_the_call(backbone, engine, kept):
    plain = prefix_task(backbone, HEADS, UNITS)
    with pytest.raises(RefusedError, match=r"give at least one of these$"):
        engine._model.kernel.pack(replace(plain, forms=replace(Forms(), kept=kept)))


@pytest.mark.parametrize("given", [Kept(0b11, HEADS), Kept(0b111, UNITS)])
def test_arrays_of_another_shape_than_what_is_kept_are_refused_before_the_call(backbone, engine, given):
    whole = prefix_task(backbone, HEADS, UNITS)
    path = "blocks.0.attn" if given.total == HEADS else "blocks.0.mlp"
    with pytest.raises(RefusedError, match="and the backbone needs"):
        engine._model.kernel.pack(replace(whole, forms=replace(whole.forms, kept={path: given})))


def test_rows_of_one_depth_run_the_widest_first_and_deeper_ones_before_them(backbone, engine):
    wide, narrow = (engine.prepare(prefix_task(backbone, heads, UNITS)) for heads in (3, 1))
    shallow = replace(wide, depth=1)
    rows = [KernelRow(task, place, place, [(task, 1)]) for place, task in enumerate((narrow, wide, narrow, shallow))]
    rows.insert(1, KernelRow(None, 9, 9, []))
    assert [row.place for row in by_work(rows)] == [9, 1, 0, 2, 3]
    assert by_work(rows[2:3]) == rows[2:3]


def test_a_search_groups_units_as_the_kernel_leaves_them_out() -> None:
    assert GROUP == SLICE
