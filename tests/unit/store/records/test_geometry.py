from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import AdapterMismatchError
from store.records.geometry import Geometry, count_blocks

counts = st.lists(st.integers(1, 20), min_size=1, max_size=5)


def staged(stages: list[int]) -> Geometry:
    maps = {
        f"layers.{stage}.blocks.{block}.attn.qkv": (3 * (8 << stage), 8 << stage)
        for stage, count in enumerate(stages)
        for block in range(count)
    }
    return Geometry.of(dict(sorted(maps.items())))


@given(counts)
def test_blocks_are_counted_from_1_over_all_stages_whatever_the_order_of_their_names(stages):
    geometry = staged(stages)
    assert geometry.stages == tuple(stages)
    assert [geometry.number(f"{path}.attn.qkv") for path in geometry.paths] == list(range(1, sum(stages) + 1))
    assert geometry.dims == tuple(8 << stage for stage, count in enumerate(stages) for _ in range(count))


@given(counts, st.sampled_from(["attn.qkv", "mlp.fc2", "norm1", "attn", "mlp"]))
def test_the_engines_path_and_timms_name_the_same_module(stages, kind):
    geometry = staged(stages)
    for index, path in enumerate(geometry.paths):
        assert geometry.flat(f"{path}.{kind}") == f"blocks.{index}.{kind}"
        assert geometry.timm(f"blocks.{index}.{kind}") == f"{path}.{kind}"


def test_a_merge_is_in_the_first_block_of_its_stage():
    geometry = staged([2, 3, 1])
    assert geometry.number("layers.1.downsample.reduction") == 3
    assert geometry.flat("layers.2.downsample.norm") == "blocks.5.downsample.norm"
    assert geometry.timm("blocks.5.downsample.norm") == "layers.2.downsample.norm"
    assert count_blocks(["layers.1.downsample.norm", "layers.1.blocks.0.norm1", "layers.2.blocks.0.norm1", "norm"]) == 2


def test_the_last_norm_is_in_no_block_and_unknown_blocks_are_above_the_last():
    geometry = staged([2, 3, 1])
    assert geometry.number("norm") == 0
    assert min(map(geometry.number, ("layers.0.blocks.2.attn.qkv", "layers.3.downsample.norm"))) > geometry.blocks
    assert [geometry.ends_early(depth) for depth in range(1, 7)] == [True] * 5 + [False]


def test_a_plain_backbone_is_one_stage_whose_paths_are_the_engines():
    geometry = Geometry.of({f"blocks.{block}.attn.qkv": (96, 32) for block in range(12)})
    assert (geometry.staged, geometry.stages, geometry.dims) == (False, (12,), (32,) * 12)
    assert (geometry.number("blocks.10.mlp.fc1"), geometry.flat("blocks.10.mlp.fc1")) == (11, "blocks.10.mlp.fc1")
    assert not geometry.ends_early(3)


@pytest.mark.parametrize("module", ["patch_embed.proj", "head", "blocks.0.attn.qkv"])
def test_a_path_outside_of_the_stages_is_refused_in_one_line(module):
    with pytest.raises(AdapterMismatchError, match="is not in a block"):
        staged([1, 1]).number(module)
