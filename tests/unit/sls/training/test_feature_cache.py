"""What frozen blocks make of an image is kept by content, depends on no other image, and changes no tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.toy_datasets import haze, same, toy_backbone

from sls.adapters.model import build_vit
from sls.data.dataset import Split
from sls.pipeline.retune import untrained
from sls.progress import ignore_progress
from sls.training.feature_cache import FeatureCache, FrozenOutputs
from sls.training.frozen_prefix import FeatureSource
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.weights.preprocessing import make_transform


@pytest.fixture(scope="module")
def world():
    backbone = toy_backbone()
    vit = build_vit(backbone, backbone.record.blocks).eval().bfloat16()
    return backbone, vit, make_transform(backbone.record.id.preprocessing)


def outputs(world, split: Split, known: FrozenOutputs | None = None) -> torch.Tensor:
    _, vit, transform = world
    kept = FeatureSource(vit, split, transform, frozen=2, known=known)._kept
    assert kept is not None
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_an_image_gets_the_same_bits_whatever_stands_beside_it(world, seed):
    split = haze(train=27).train
    order = np.random.default_rng(seed).permutation(27)[: 11 + seed]
    some = Split(tuple(split.images[i] for i in order), split.labels[order])
    assert torch.equal(outputs(world, some), outputs(world, split)[torch.from_numpy(order)])


def test_what_is_kept_is_what_is_computed_and_the_bound_holds(world, tmp_path):
    split = haze(train=20).train
    computed = outputs(world, split)
    nbytes = computed[0].numel() * 2
    cache = FeatureCache(tmp_path / "features", limit_nbytes=13 * nbytes + nbytes // 2)
    assert torch.equal(outputs(world, split, FrozenOutputs(cache, "print", 2)), computed)
    files = [path for path in (tmp_path / "features").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in files] == [nbytes] * 13
    other = FrozenOutputs(FeatureCache(tmp_path / "features", limit_nbytes=0), "print", 2)
    assert torch.equal(outputs(world, split, other), computed)
    assert sum(other.get(digest, (-1, 48)) is not None for digest in split.digests) == 13
    assert FrozenOutputs(cache, "another print", 2).get(split.digests[0], (-1, 48)) is None
    assert FrozenOutputs(cache, "print", 3).get(split.digests[0], (-1, 48)) is None


def test_a_tuning_with_the_features_of_another_ends_with_the_same_bits(world, tmp_path):
    backbone, _, transform = world
    dataset, config = haze(train=24), TrainingConfig(epochs=1, from_block=3, rank=2)

    def run(cache: FeatureCache | None):
        start = untrained(dataset, backbone, config)
        return tune(
            dataset, backbone, start, config, transform=transform, stage="tune", progress=ignore_progress, cache=cache
        )

    cache = FeatureCache(tmp_path, limit_nbytes=1 << 20)
    alone, first, second = run(None), run(cache), run(cache)
    assert len([path for path in Path(tmp_path).rglob("*") if path.is_file()]) == 24 + 60
    assert same(alone, first)
    assert same(alone, second)
