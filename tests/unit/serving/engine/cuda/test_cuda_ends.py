"""The ends of a CUDA device on a CPU: the stem as a product and the heads as one, against those of the torch path."""

from __future__ import annotations

import pytest
import torch
from support.oracle import make_backbone

from serving.engine.cuda import cuda_ends
from serving.engine.cuda.cuda_ends import CudaEnds
from serving.engine.torch_model import VitEnds
from store.weights.forms import Forms, TaskWeights

WITHIN = 1e-5
STEMS = {
    "plain": {},
    "a norm before the blocks": {"pre_norm": True},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "patches that do not divide the image": {"patch_size": 12},
    "dynamic sizes": {"dynamic_img_size": True},
}


@pytest.mark.parametrize("arguments", STEMS.values(), ids=STEMS)
def test_the_stem_is_the_torch_path_s(tmp_path, arguments):
    vit = make_backbone(tmp_path, depth=1, **arguments).build()
    images = torch.randn(3, 3, 32, 32)
    expected = VitEnds(vit).stem(images)
    torch.testing.assert_close(CudaEnds(vit, False).stem(images), expected, atol=WITHIN, rtol=0)


def test_images_of_another_size_are_refused_as_in_the_torch_path(tmp_path):
    vit = make_backbone(tmp_path, depth=1).build()
    with pytest.raises(AssertionError, match="64"):
        CudaEnds(vit, False).stem(torch.randn(1, 3, 64, 64))


def heads(classes: list[int], dim: int) -> list[TaskWeights]:
    return [TaskWeights(1, Forms(), torch.randn(count, dim), torch.randn(count), ()) for count in classes]


@pytest.mark.parametrize("stacked", [2**26, 100], ids=["all of a shape at once", "few at once"])
@pytest.mark.parametrize("classes", [[5], [3, 3, 3], [2, 5, 2, 7, 5, 2, 2]], ids=str)
def test_the_heads_are_each_row_s_own(tmp_path, monkeypatch, stacked, classes):
    monkeypatch.setattr(cuda_ends, "STACKED", stacked)
    vit = make_backbone(tmp_path, depth=1).build()
    tasks, features = heads(classes, 48), torch.randn(len(classes), 48)
    expected = VitEnds(vit).heads(features, tasks)
    for logits, others in zip(CudaEnds(vit, False).heads(features, tasks), expected, strict=True):
        torch.testing.assert_close(logits, others, atol=WITHIN, rtol=0)


def test_with_batch_invariance_no_head_shares_a_product(tmp_path):
    vit = make_backbone(tmp_path, depth=1).build()
    tasks, features = heads([4, 4, 4, 9], 48), torch.randn(4, 48)
    made = CudaEnds(vit, True).heads(features, tasks)
    alone = [CudaEnds(vit, True).heads(features[row : row + 1], [task])[0] for row, task in enumerate(tasks)]
    assert all(torch.equal(*pair) for pair in zip(made, alone, strict=True))
