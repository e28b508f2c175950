"""How a backbone's record says by which call it is added to a store again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.toy_backbone import Toy

from store.records.backbone import adopt_remedy


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (
            "my.safetensors",
            "`adopt_backbone(store, name)` with name 'vit_tiny_patch16_224', `weights=` 'my.safetensors', "
            "`arguments=` {'img_size': 32}, `label=` 'mine/vit'",
        ),
        (
            "vit_tiny_patch16_224.x",
            "`adopt_backbone(store, name)` with name 'vit_tiny_patch16_224.x', `arguments=` {'img_size': 32}, "
            "`label=` 'mine/vit'",
        ),
        ("package", "`adopt_backbone(store, name)` with name 'mine/vit'"),
        ("x" * 1000, "`adopt_backbone(store, name)`"),
    ],
)
def test_the_remedy_names_all_that_the_call_needs(toy: Toy, source: str, remedy: str) -> None:
    identity = replace(toy.record.id, arguments={"img_size": 32})
    assert adopt_remedy(replace(toy.record, name="mine/vit", source=source, id=identity)) == remedy


def test_a_remedy_is_one_line_whatever_the_record_holds(toy: Toy) -> None:
    assert "\n" not in adopt_remedy(replace(toy.record, source="a\nb"))
