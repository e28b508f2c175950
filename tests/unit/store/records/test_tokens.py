"""A token index: small, nested by how it is written, checked when it is made, and part of the prune index."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest
from support.token_twin import random_masks, random_tokens

from store.errors import FormatError
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.records.tokens import TokenIndex

WHOLE = (1 << 12) - 1


@pytest.mark.parametrize("seed", range(20))
def test_masks_come_back_from_the_text_that_is_stored(seed: int) -> None:
    masks = random_masks(seed, 5, 12)
    tokens = TokenIndex.of(masks, rows=3, columns=4)
    again = TokenIndex(**json.loads(json.dumps(dataclasses.asdict(tokens))))
    assert again == tokens
    assert [sum((level > block) << patch for patch, level in enumerate(again.levels)) for block in range(5)] == masks
    assert again.patches_kept == tuple(mask.bit_count() for mask in masks)
    assert again.share == sum(again.patches_kept) / 60
    there = list(range(12))
    for block, step in again.steps.items():
        assert step.before == len(there)
        there = [there[place] for place in step.places]
        assert sum(1 << patch for patch in there) == masks[block]


def test_patches_of_vit_b_take_four_bits_each_or_less() -> None:
    assert random_tokens(3, 12, (14, 14)).nbytes <= 98
    top = TokenIndex.of([(1 << 196) - 1] * 6 + [(1 << 98) - 1] * 6, rows=14, columns=14)
    assert (top.nbytes < 20, top.kept.partition(":")[0]) == (True, "deflate")


@pytest.mark.parametrize(
    ("masks", "rule"),
    [
        ([WHOLE, 0], "block 2 keeps no patch: keep at least one"),
        ([0b111, 0b1000], "block 2 keeps patch 4, which block 1 leaves out: a patch that is taken out does not come"),
        ([WHOLE << 1], "block 1 keeps patches up to 13, an image has 12: use the index with the backbone"),
        ([-1], "block 1 keeps patches up to"),
        ([], "token index of 0 blocks"),
    ],
)
def test_masks_that_no_task_can_have_are_refused(masks: list[int], rule: str) -> None:
    with pytest.raises(FormatError, match=rule) as refused:
        TokenIndex.of(masks, rows=3, columns=4)
    assert len(str(refused.value).splitlines()) == 1


def text(form: str, data: bytes) -> str:
    return f"{form}:{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"kept": "bits:AAAA"}, "expected levels or deflate"),
        ({"kept": "levels:A" + "A" * 400}, "expected levels or deflate"),
        ({"kept": "levels:@@@@"}, "cannot be decoded"),
        ({"kept": "levels:é"}, "cannot be decoded"),
        ({"kept": "deflate:AAAA"}, "cannot be decoded|bytes, 12 patches of 2 blocks take 3"),
        ({"kept": text("levels", b"\xff" * 2)}, "has 2 bytes, 12 patches of 2 blocks take 3"),
        ({"kept": text("levels", b"\xff" * 3)}, "a patch is kept by 3 blocks, of 2"),
        ({"rows": 11, "columns": 1, "kept": text("levels", b"\xaa" * 3)}, "has patches above 11"),
        ({"blocks": 0}, "of 0 blocks"),
        ({"rows": 0}, "of 0 x 4 patches"),
        ({"rows": 1 << 16}, "expected 1..65536"),
    ],
)
def test_text_that_is_no_index_is_refused_in_one_line(changes: dict[str, object], rule: str) -> None:
    whole = {"blocks": 2, "rows": 3, "columns": 4, "kept": text("levels", b"\xaa" * 3)}
    assert TokenIndex(**whole).patches_kept == (12, 12)
    with pytest.raises(FormatError, match=rule) as refused:
        TokenIndex(**{**whole, **changes})
    assert len(str(refused.value).splitlines()) == 1


def test_it_is_part_of_the_prune_index_and_absent_where_all_patches_stay() -> None:
    tokens = random_tokens(1, 3, (3, 4))
    card = Card("0" * 64, PruneIndex(3, 4, "vit-slim", tokens=tokens))
    assert Card.from_json(card.to_json()) == card
    assert b"tokens" not in Card("0" * 64, PruneIndex(3, 4, "vit-slim")).to_json()
    with pytest.raises(FormatError, match="format 6 has no tokens"):
        dataclasses.replace(card, format=6)
    with pytest.raises(FormatError, match="token index of 3 blocks at depth 2"):
        PruneIndex(2, 4, "vit-slim", tokens=tokens)
