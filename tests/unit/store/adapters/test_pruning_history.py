"""What Torch-Pruning 1.6.1 says it took from a timm ViT, as a width index; parts of heads and other widths are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.toy_backbone import DIM, make_toy

from store.adapters.pruning_history import read_pruning_history
from store.errors import FormatError, OnetrunkError, UnservedAdapterError
from store.records.width import kept_places

RECORD = make_toy().record
HEAD = DIM // 3


def history(folder: Path, *steps: object) -> Path:
    path = folder / "history.json"
    path.write_text(json.dumps(list(steps)))
    return path


def read(path: Path):
    return read_pruning_history(path, RECORD, heads=3)


def test_units_and_whole_heads_become_an_index_whichever_map_is_the_root(tmp_path):
    first, last = list(range(HEAD)), list(range(2 * HEAD, 3 * HEAD))
    width = read(
        history(
            tmp_path,
            ["blocks.1.mlp.fc1", True, [0, 5]],
            ["blocks.0.attn.proj", False, first],
            ["blocks.2.attn.qkv", True, [*last, *(DIM + n for n in last), *(2 * DIM + n for n in last)]],
            ["blocks.3.mlp.fc2", False, [191]],
        )
    )
    assert [kept_places(mask.heads) for mask in width.masks] == [[1, 2], [0, 1, 2], [0, 1], [0, 1, 2]]
    assert kept_places(width.masks[1].units) == [n for n in range(192) if n not in (0, 5)]
    assert width.units_kept == (192, 190, 192, 191)


def test_later_steps_count_what_earlier_ones_left(tmp_path):
    width = read(history(tmp_path, ["blocks.0.mlp.fc1", True, [0, 1]], ["blocks.0.mlp.fc1", True, [0]]))
    assert kept_places(width.masks[0].units) == list(range(3, 192))


@pytest.mark.parametrize(
    ("step", "error", "rule"),
    [
        (["patch_embed.proj", True, [1]], UnservedAdapterError, "changes the width that all blocks share"),
        (["blocks.0.attn.proj", True, [1]], UnservedAdapterError, "changes the width that all blocks share"),
        (["blocks.0.mlp.fc2", True, [1]], UnservedAdapterError, "changes the width that all blocks share"),
        (["blocks.9.mlp.fc1", True, [1]], UnservedAdapterError, "is not a map of a block"),
        (["blocks.0.attn.proj", False, [1]], UnservedAdapterError, "takes parts of heads from block 1"),
        (["blocks.0.mlp.fc1", True, [192]], FormatError, "takes place 192 of 192"),
        (["blocks.0.mlp.fc1", True, list(range(192))], FormatError, "block 1 keeps no unit"),
        (["blocks.0.mlp.fc1", 1, [0]], FormatError, "is not a list of"),
        (["blocks.0.mlp.fc1", True, [-1]], FormatError, "is not a list of"),
        ("blocks.0.mlp.fc1", FormatError, "is not a list of"),
    ],
)
def test_what_is_no_index_is_refused_in_one_line(tmp_path, step, error, rule):
    with pytest.raises(error, match=rule) as caught:
        read(history(tmp_path, step))
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "history.pt"
    path.write_bytes(b"\x80\x05K\x01.")
    with pytest.raises(OnetrunkError, match="is not JSON"):
        read(path)
