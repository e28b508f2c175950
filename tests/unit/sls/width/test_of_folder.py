"""The width of a task that is tuned already: what turns heads or units together has none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.custom_tasks import make_custom_task
from support.oracle import TaskFolder, make_backbone, make_peft_task
from support.peft_tasks import CONFIGS
from support.toy_datasets import colours

from sls.adapters.task_folder import read_folder
from sls.width.of_folder import check_parts, width_of_folder
from sls.width.search import WidthConfig
from store.errors import UnservedAdapterError

WHERE = {"oft": ("attn.proj", "mlp.fc2"), "boft": ("attn.proj", "mlp.fc2"), "road": ("attn.qkv", "mlp.fc1")}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def tuned(backbone, folder, method: str, kinds):
    targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in kinds]
    return make_peft_task(backbone, TaskFolder(folder, 2), CONFIGS[method](targets, 2), classes=3)


@pytest.mark.parametrize(("method", "kinds"), WHERE.items())
@pytest.mark.parametrize("which", [0, 1])
def test_turns_of_heads_or_units_together_are_refused_in_one_line(backbone, tmp_path, method, kinds, which):
    made = tuned(backbone, tmp_path, method, kinds[which : which + 1])
    with pytest.raises(UnservedAdapterError, match=rf"blocks\.0\.{kinds[which]} turns numbers of several") as refused:
        check_parts(read_folder(made.folder, backbone))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("method", "kinds"), [("oft", ("attn.qkv", "mlp.fc1")), ("road", ("attn.proj", "mlp.fc2"))])
def test_turns_of_what_all_heads_and_units_share_are_not(backbone, tmp_path, method, kinds):
    check_parts(read_folder(tuned(backbone, tmp_path, method, kinds).folder, backbone))


def test_patches_under_a_convolution_are_not_left_out(backbone, tmp_path):
    made = make_custom_task(backbone, tmp_path, "convpass", depth=4)
    classes = tuple((made.folder / "classes.txt").read_text().splitlines())
    data = replace(colours(), classes=classes)
    with pytest.raises(UnservedAdapterError, match="convolves the whole grid of patches"):
        width_of_folder(made.folder, data, backbone, config=WidthConfig("taylor", tokens=0.5))
