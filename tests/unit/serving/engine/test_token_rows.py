"""Tasks that leave out patches, mixed in one batch, against stock timm from whose tokens they are taken out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support.custom_tasks import make_custom_task
from support.formula_oracle import check_mix, on_core_threads, plain_logits, random_weights
from support.kernel_cases import best_library, in_bfloat16, kernel_engine
from support.narrow_twin import narrow_twin, random_width
from support.oracle import TaskFolder, make_backbone, make_peft_task, make_task, open_shop, reference_logits
from support.peft_tasks import CONFIGS
from support.swin_tasks import make_swin
from support.token_twin import grid_of, random_tokens, with_tokens

from serving.engine.engine import Engine
from sls.adapters.task_folder import read_folder
from store.errors import BackboneMismatchError, RefusedError, UnservedAdapterError, UnservedBackboneError
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.records.width import WidthIndex
from store.weights.converted.leaving import export_merged
from store.weights.load_task import load_task
from store.weights.width import kept_of

BLOCKS, SIZES = 4, {"heads": 3, "units": 192}
POOLINGS = (
    {},
    {"reg_tokens": 3},
    {"global_pool": "avg"},
    {"global_pool": "avg", "class_token": False, "fc_norm": True},
    {"global_pool": "map"},
)


def drawn(backbone, seed: int):
    """Draw a task of any depth, first block, forms, heads, units and patches, and its twin in timm."""
    draw = random.Random(seed)
    depth = draw.randint(1, BLOCKS)
    width = random_width(seed, depth, **SIZES) if draw.random() < 0.5 else None
    twin = backbone if width is None else narrow_twin(backbone, width)
    task = random_weights(twin, seed, depth=depth, first=draw.randint(1, depth + 1))
    task = replace(task, forms=replace(task.forms, kept=kept_of(width)))
    if "norm.weight" not in backbone.tensors:  # the norm comes after pooling, and is no task's
        task.forms.norms.pop("norm", None)
    return with_tokens(task, random_tokens(seed, depth, grid_of(backbone)) if draw.random() < 0.8 else None), twin


@pytest.mark.parametrize("pooling", range(len(POOLINGS)))
def test_rows_of_any_patches_widths_depths_and_forms_in_one_batch_equal_stock_timm(tmp_path, pooling):
    backbone = make_backbone(tmp_path, **POOLINGS[pooling])
    engine = on_core_threads(Engine(backbone, batch_invariant=pooling == 1), 1 + pooling % 2)
    made = [drawn(backbone, 100 * pooling + index) for index in range(10)]
    check_mix(engine, made, pooling)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def published(shop, folder, **index: object):
    """Publish the folder as a task of these indexes, a width's or a token's or both."""
    depth = next(part.blocks for part in index.values() if part is not None)
    card = Card(shop.backbone.record.id.fingerprint, PruneIndex(depth, BLOCKS, "given", **index))
    (folder / "onetrunk.json").write_bytes(card.to_json())
    return shop.store.publish("flowers", folder)


def made_task(shop, folder, name: str, width=None):
    targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in ("attn.qkv", "mlp.fc2")]
    twin = shop.backbone if width is None else narrow_twin(shop.backbone, width)
    return twin, make_peft_task(twin, TaskFolder(folder, 2), CONFIGS[name](targets, 2), classes=3)


def test_methods_of_peft_on_fewer_patches_are_published_loaded_and_served_exactly(shop, tmp_path):
    images = torch.randn(1, 3, 32, 32)
    tasks, expected = [], []
    for seed, name in enumerate(("lora", "dora", "ia3", "oft", "road", "vera")):
        width = WidthIndex.of([(0b111, (1 << 96) - 1)] * 2, **SIZES) if seed % 2 else None
        tokens = random_tokens(seed, 2, (4, 4))
        twin, made = made_task(shop, tmp_path / name, name, width)
        expected += reference_logits(twin, made, images, tokens=tokens)
        version = published(shop, made.folder, tokens=tokens, width=width)
        tasks.append(load_task(shop.store, version.manifest, backbone=shop.backbone.tensors))
    for logits, exact in zip(Engine(shop.backbone).forward(images, tasks, [0] * len(tasks)), expected, strict=True):
        torch.testing.assert_close(logits, exact, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("method", ["lora", "ssf", "adapter+", "adaptformer", "houlsby"])
def test_methods_of_sls_are_served_as_the_folder_that_it_reads(shop, tmp_path, method):
    tokens = random_tokens(7, BLOCKS, (4, 4))
    made = (
        make_task(shop.backbone, tmp_path, depth=BLOCKS, classes=3)
        if method == "lora"
        else make_custom_task(shop.backbone, tmp_path, method, depth=BLOCKS)
    )
    version = published(shop, made.folder, tokens=tokens)
    task, images = load_task(shop.store, version.manifest, backbone=shop.backbone.tensors), torch.randn(1, 3, 32, 32)
    model = read_folder(made.folder, shop.backbone)
    with torch.inference_mode():
        expected = model.head(model.vit(images))
    torch.testing.assert_close(Engine(shop.backbone).forward(images, [task])[0], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain_logits(shop.backbone, task, images), expected, atol=1e-4, rtol=1e-4)


FOREIGN = {
    "another image size": (random_tokens(1, 2, (5, 5)), "5 x 5 patches, an image has 4 x 4"),
    "another shape of the grid": (random_tokens(1, 2, (2, 8)), "2 x 8 patches, an image has 4 x 4"),
    "class token counted": (random_tokens(1, 2, (17, 1)), "beside the class token, which always stays"),
}


@pytest.mark.parametrize(("tokens", "rule"), FOREIGN.values(), ids=FOREIGN)
def test_an_index_of_another_backbone_is_refused_at_publish_and_at_load(shop, tmp_path, tokens, rule):
    _, made = made_task(shop, tmp_path, "lora")
    before = shop.store.search().rows
    with pytest.raises(BackboneMismatchError, match=rule) as refused:
        published(shop, made.folder, tokens=tokens)
    assert len(str(refused.value).splitlines()) == 1
    assert shop.store.search().rows == before
    task = with_tokens(random_weights(shop.backbone, 0, depth=2), tokens)
    with pytest.raises(BackboneMismatchError, match=rule):
        Engine(shop.backbone).prepare(task)


def test_blocks_that_are_not_there_and_convolutions_are_refused(shop, tmp_path):
    made = make_custom_task(shop.backbone, tmp_path / "made", "convpass", depth=BLOCKS)
    with pytest.raises(UnservedAdapterError, match="convolves the whole grid of patches"):
        published(shop, made.folder, tokens=random_tokens(1, BLOCKS, (4, 4)))
    engine, drawn_tasks = (
        Engine(shop.backbone),
        (random_weights(shop.backbone, seed, depth=BLOCKS) for seed in range(9)),
    )
    whole = next(task for task in drawn_tasks if any(form.conv is not None for form in task.forms.bottlenecks.values()))
    deep = with_tokens(whole, random_tokens(1, BLOCKS + 1, (4, 4)))
    with pytest.raises(BackboneMismatchError, match="of 5 blocks, the backbone has 4"):
        engine.prepare(deep)
    with pytest.raises(UnservedAdapterError, match="convolves the whole grid of patches"):
        engine.prepare(replace(whole, forms=replace(whole.forms, tokens=random_tokens(1, BLOCKS, (4, 4)))))
    with pytest.raises(UnservedBackboneError, match="attends within windows"):
        make_swin(tmp_path / "swin").narrow(None, random_tokens(1, 2, (8, 8)))


def test_the_kernel_refuses_an_index_that_it_could_not_follow(tmp_path):
    backbone = make_backbone(tmp_path, embed_dim=96)
    kernel = kernel_engine(backbone, best_library())._model.kernel
    plain = in_bfloat16(with_tokens(random_weights(backbone, 1, depth=2), random_tokens(1, 2, (4, 4))))
    assert kernel.pack(plain).tokens == 1 + plain.forms.tokens.patches_kept[-1]
    for tokens in (random_tokens(1, 3, (4, 4)), random_tokens(1, 2, (4, 5))):
        with pytest.raises(RefusedError, match="give the task's own"):
            kernel.pack(with_tokens(plain, tokens))


def test_exports_to_plain_models_are_refused(shop, tmp_path):
    _, made = made_task(shop, tmp_path / "made", "lora")
    published(shop, made.folder, tokens=random_tokens(1, 2, (4, 4)))
    with pytest.raises(UnservedAdapterError, match="leaves out heads, units or patches"):
        export_merged(shop.store, "flowers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
