"""The operations that left-out heads, units and patches would take, against a count of what is there, map by map."""

from __future__ import annotations

import pytest
from support.narrow_twin import narrow_twin, random_width
from support.token_twin import random_tokens
from support.toy_datasets import toy_backbone

from store.accounting.flops import block_flops, saved_by_width

BACKBONE = toy_backbone()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kinds", ["width", "tokens", "width tokens"])
def test_what_is_saved_is_what_the_rest_does_not_take(seed: int, kinds: str) -> None:
    width = random_width(seed, 3, heads=3, units=192) if "width" in kinds else None
    tokens = random_tokens(seed, 3, BACKBONE.record.patch_grid) if "tokens" in kinds else None
    record = BACKBONE.record if width is None else narrow_twin(BACKBONE, width).record
    taken = 0
    for block in range(3):
        there = 1 + (tokens.patches_kept[block] if tokens else 16)
        shapes = [record.modules[f"blocks.{block}.{kind}"] for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
        taken += 2 * there * sum(out * fan_in for out, fan_in in shapes) + 4 * there**2 * shapes[1][1]
    assert saved_by_width(BACKBONE.record, width, tokens) == sum(block_flops(BACKBONE.record)[:3]) - taken


def test_nothing_is_saved_where_all_stays() -> None:
    assert saved_by_width(BACKBONE.record, None) == 0
