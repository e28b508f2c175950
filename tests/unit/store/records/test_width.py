"""A width index: small, checked when it is made, and part of the prune index and the manifest."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import zlib

import pytest
from support.narrow_twin import random_width

from store.errors import FormatError
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.records.width import WidthIndex, full_width, kept_places, mask_of

VIT_B = {"heads": 12, "units": 3072}


def masks_at(share: float, blocks: int = 12, seed: int = 0) -> list[tuple[int, int]]:
    draw = random.Random(seed)
    units = [mask_of(sorted(draw.sample(range(3072), int(share * 3072)))) for _ in range(blocks)]
    return [(mask_of(sorted(draw.sample(range(12), 8))), mask) for mask in units]


@pytest.mark.parametrize("seed", range(20))
def test_masks_come_back_from_the_text_that_is_stored(seed: int) -> None:
    width = random_width(seed, 5, heads=3, units=29)
    again = WidthIndex(**json.loads(json.dumps(dataclasses.asdict(width))))
    assert again == width
    assert WidthIndex.of(again.masks, heads=3, units=29) == width
    assert again.heads_kept == tuple(len(kept_places(mask.heads)) for mask in width.masks)


def test_the_first_heads_and_units_of_vit_b_take_36_bytes() -> None:
    width = random_width(1, 12, **VIT_B, prefix=True)
    assert (width.nbytes, width.is_prefix) == (36, True)
    assert full_width(12, **VIT_B).nbytes == 36


@pytest.mark.parametrize(("share", "most"), [(0.5, 4630), (0.7, 4630), (0.9, 3000), (0.99, 700)])
def test_any_heads_and_units_of_vit_b_take_a_bit_each_or_less(share: float, most: int) -> None:
    width = WidthIndex.of(masks_at(share), **VIT_B)
    assert width.nbytes <= most
    assert list(width.masks) == masks_at(share)


def text(form: str, data: bytes) -> str:
    return f"{form}:{base64.b64encode(data).decode()}"


def deflated(data: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return made.compress(data) + made.flush()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"kept": text("prefix", bytes([0, 1, 0] * 2))}, "block 1 keeps no head: keep at least one of each"),
        ({"kept": text("prefix", bytes([1, 4, 0, 1, 0, 0]))}, "block 2 keeps no unit"),
        ({"kept": text("prefix", bytes([4, 1, 0] * 2))}, "block 1 keeps 4 heads and 1 units, the backbone has 3 and 8"),
        ({"kept": text("prefix", bytes([1, 9, 0] * 2))}, "keeps 1 heads and 9 units, the backbone has 3 and 8"),
        ({"kept": text("prefix", bytes([1, 1, 0]))}, "has 3 bytes, 2 blocks of 3 heads and 8 units take 6"),
        ({"kept": text("bits", b"\xff\xff\xff")}, "units above 8 of the last block"),
        ({"kept": text("bits", b"\xff" * 4000)}, "expected prefix, bits or deflate"),
        ({"kept": text("deflate", deflated(b"\1\2\3\4"))}, "has 4 bytes, 2 blocks .* take 3: publish the task again"),
        ({"kept": text("deflate", deflated(b"\0" * 1000))}, "expected prefix, bits or deflate"),
        ({"kept": text("deflate", b"\xff\xff")}, "cannot be decoded"),
        ({"kept": "bits:***"}, "cannot be decoded"),
        ({"kept": "pickle:gASVAAA="}, "expected prefix, bits or deflate"),
        ({"blocks": 0}, "0 blocks: expected 1..1024"),
        ({"heads": 256}, "256 heads: expected 1..255"),
        ({"units": 65_536}, "65536 units: expected 1..65535"),
    ],
)
def test_what_no_backbone_could_run_is_refused_in_one_line(changes: dict[str, object], rule: str) -> None:
    good = {"blocks": 2, "heads": 3, "units": 8, "kept": text("prefix", bytes([3, 8, 0] * 2))}
    WidthIndex(**good)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=rule) as caught:
        WidthIndex(**{**good, **changes})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("masks", [[(8, 1)], [(1, 1 << 8)], [(-1, 1)]])
def test_masks_above_the_width_are_refused(masks: list[tuple[int, int]]) -> None:
    with pytest.raises(FormatError, match="use the index with the backbone it was made for"):
        WidthIndex.of(masks, heads=3, units=8)


def test_a_prune_index_has_a_width_for_each_block_that_runs() -> None:
    width = random_width(0, 3, heads=3, units=8)
    with pytest.raises(FormatError, match="width index of 3 blocks at depth 2: give one for each block that runs"):
        PruneIndex(2, 4, "given", width=width)


def test_a_card_keeps_its_width_and_one_without_is_written_as_before() -> None:
    width = random_width(0, 3, heads=3, units=8)
    card = Card("0" * 64, PruneIndex(3, 4, "given", width=width))
    assert Card.from_json(card.to_json()) == card
    full = Card("0" * 64, PruneIndex(3, 4, "given"))
    assert "width" not in json.loads(full.to_json())["prune_index"]
    assert Card.from_json(full.to_json()) == full
    with pytest.raises(FormatError, match="format 6 has no width: write 7"):
        dataclasses.replace(card, format=6)
