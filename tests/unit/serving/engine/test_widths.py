"""Tasks that keep some heads and units of the shared backbone, mixed in one batch, against stock timm cut to them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support.custom_tasks import make_custom_task
from support.formula_oracle import check_mix, on_core_threads, plain_logits, random_weights
from support.kernel_cases import best_library, kernel_engine
from support.narrow_twin import NarrowTwin, narrow_twin, random_width
from support.oracle import TaskFolder, lowered, make_backbone, make_peft_task, open_shop, reference_logits
from support.peft_tasks import CONFIGS

from serving.engine.engine import Engine
from serving.engine.narrow_maps import NarrowMaps, narrow_maps
from store.errors import AdapterMismatchError, BackboneMismatchError, UnservedBackboneError
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.records.width import WidthIndex, mask_of
from store.weights.forms import Kept, TaskWeights
from store.weights.load_task import load_task
from store.weights.width import kept_of

BLOCKS, HEADS, UNITS = 4, 3, 192
SIZES = {"heads": HEADS, "units": UNITS}
LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def narrow_task(backbone, seed: int, **options: object) -> tuple[TaskWeights, NarrowTwin]:
    depth = random.Random(seed).randint(1, BLOCKS)
    width = random_width(seed, depth, **{**SIZES, **options})
    twin = narrow_twin(backbone, width)
    weights = random_weights(twin, seed, depth=depth, first=random.Random(-seed).randint(1, depth))
    return replace(weights, forms=replace(weights.forms, kept=kept_of(width))), twin


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_any_widths_depths_and_forms_in_one_batch_equal_stock_timm_cut_alike(backbone, seed):
    engine = on_core_threads(Engine(backbone, batch_invariant=seed == 4), 1 + seed % 2)
    made = [narrow_task(backbone, 50 * seed + index, prefix=index == 0) for index in range(8)]
    made += [(random_weights(backbone, seed), backbone)]
    check_mix(engine, made, seed)


def test_rows_of_one_width_are_gathered_once_however_they_stand():
    maps, kept = NarrowMaps(0), Kept(0b101, 3)
    layers = torch.nn.Linear(48, 144), torch.nn.Linear(48, 48)
    for _ in range(5):
        maps.get(("blocks.0.attn", kept), lambda: narrow_maps(*layers, ("attn.qkv", "attn.proj"), kept))
    assert (maps.gathers, maps.hits) == (1, 4)
    assert maps.nbytes == 4 * (96 * 48 + 48 * 32)


def test_gathered_weights_are_bounded_and_the_first_heads_and_units_take_none():
    maps = NarrowMaps(0)
    maps.max_nbytes = 100_000
    layers = torch.nn.Linear(48, 192), torch.nn.Linear(192, 48)
    for units in range(1, 60):
        kept = Kept(((1 << units) - 1) << 1, 192)
        maps.get(("blocks.0.mlp", kept), lambda kept=kept: narrow_maps(*layers, ("mlp.fc1", "mlp.fc2"), kept))
    assert maps.nbytes <= 100_000
    first = narrow_maps(*layers, ("mlp.fc1", "mlp.fc2"), Kept(0b111, 192))
    assert first.nbytes == 0
    assert first.last.weight.data_ptr() == layers[1].weight.data_ptr()


METHODS = [name for name in CONFIGS if name not in ("gralora, hybrid", "oft, shared")]
"""Those two divide sizes by 3 and by 6, which two heads are not."""


def even_width(seed: int) -> WidthIndex:
    """Draw 96 and 48 units of two blocks: some methods of PEFT ask for sizes that a power of two divides."""
    draw = random.Random(seed)
    units = [mask_of(draw.sample(range(UNITS), count)) for count in (96, 48)]
    return WidthIndex.of([(draw.choice((0b101, 0b110)), units[0]), (0b111, units[1])], **SIZES)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def published(shop, folder, width: WidthIndex):
    index = PruneIndex(width.blocks, BLOCKS, "given", width=width)
    (folder / "onetrunk.json").write_bytes(Card(shop.backbone.record.id.fingerprint, index).to_json())
    return shop.store.publish("flowers", folder)


@pytest.mark.parametrize("part", range(4))
def test_each_method_of_peft_at_the_pruned_shape_is_published_loaded_and_served_exactly(shop, tmp_path, part):
    images = torch.randn(1, 3, 32, 32)
    tasks, expected = [], []
    for seed, name in enumerate(METHODS[part::4]):
        width = even_width(100 * part + seed)
        twin = narrow_twin(shop.backbone, width)
        targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in LINEAR]
        made = make_peft_task(twin, TaskFolder(tmp_path / str(seed), 2), CONFIGS[name](targets, 2), classes=3)
        expected += reference_logits(twin, made, images)
        version = published(shop, made.folder, width)
        tasks.append(load_task(shop.store, version.manifest, backbone=shop.backbone.tensors))
    answers = Engine(shop.backbone).forward(images, tasks, [0] * len(tasks))
    for logits, exact, name in zip(answers, expected, METHODS[part::4], strict=True):
        torch.testing.assert_close(logits, exact, atol=2e-4, rtol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("method", ["convpass", "ssf", "bitfit", "adapter+"])
def test_custom_methods_at_the_pruned_shape_are_loaded_like_the_folder_that_sls_reads(shop, tmp_path, method):
    from sls.adapters.task_folder import read_folder

    width = random_width(7, BLOCKS, **SIZES)
    made = make_custom_task(shop.backbone.narrow(width), tmp_path, method)
    version = published(shop, made.folder, width)
    task = load_task(shop.store, version.manifest, backbone=shop.backbone.tensors)
    images = torch.randn(1, 3, 32, 32)
    model = read_folder(made.folder, shop.backbone)
    with torch.inference_mode():
        expected = model.head(model.vit(images))
    torch.testing.assert_close(Engine(shop.backbone).forward(images, [task])[0], expected[0], atol=1e-4, rtol=1e-4)


def test_the_kernel_runs_any_widths_beside_whole_tasks_and_no_byte_of_the_others_changes(tmp_path):
    backbone = make_backbone(tmp_path, embed_dim=96)
    engine = kernel_engine(backbone, best_library())
    made = [narrow_task(backbone, 300 + index, units=4 * 96) for index in range(4)]
    narrow = [replace(task, forms=task.forms.to("cpu", torch.bfloat16)) for task, _ in made]
    narrow = [replace(t, head_weight=t.head_weight.bfloat16(), head_bias=t.head_bias.bfloat16()) for t in narrow]
    whole = [replace(t, forms=replace(t.forms, kept={})) for t in (random_weights(backbone, s) for s in range(3))]
    whole = [
        TaskWeights(
            t.depth, t.forms.to("cpu", torch.bfloat16), t.head_weight.bfloat16(), t.head_bias.bfloat16(), t.labels
        )
        for t in whole
    ]
    images = torch.randn(7, 3, 32, 32)
    mixed = engine.forward(images, [*narrow[:2], *whole, *narrow[2:]])
    alone = engine.forward(images[2:5], whole)
    assert all(torch.equal(one, other) for one, other in zip(mixed[2:5], alone, strict=True))
    for row, (task, twin) in zip((0, 1, 5, 6), made, strict=True):
        expected = plain_logits(twin, task, images[row][None])[0]
        assert (mixed[row] - expected).square().mean() / expected.var() < 0.05


def test_pruned_tasks_that_turn_run_beside_pruned_ones_of_the_kernel_with_the_bytes_of_each_alone(tmp_path):
    backbone, images = make_backbone(tmp_path, embed_dim=96), torch.randn(5, 3, 32, 32)
    engine = kernel_engine(backbone, best_library())
    tasks = []
    for seed, name in enumerate(("oft", "lora", "boft", "ia3", "road")):
        width = WidthIndex.of([(0b101, mask_of(range(seed, 96 + seed)))] * 2, heads=HEADS, units=384)
        targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in LINEAR]
        twin, folder = narrow_twin(backbone, width), TaskFolder(tmp_path / name, 2)
        task = lowered(twin, make_peft_task(twin, folder, CONFIGS[name](targets, 2), classes=3), torch.bfloat16)
        tasks.append(replace(task, forms=replace(task.forms, kept=kept_of(width))))
    prepared = [engine.prepare(task) for task in tasks]
    assert [isinstance(task, TaskWeights) for task in prepared] == [True, False, True, False, True]
    mixed = engine.forward(images, prepared)
    for row, task in enumerate(prepared):
        assert torch.equal(mixed[row], engine.forward(images[row : row + 1], [task])[0])


def test_a_width_of_another_backbone_is_refused_when_the_task_is_prepared(backbone):
    weights = random_weights(backbone, 0, depth=2, first=3)
    foreign = replace(weights, forms=replace(weights.forms, kept={"blocks.0.attn": Kept(1, 6)}))
    with pytest.raises(BackboneMismatchError, match=r"blocks\.0\.attn has 6 heads or units, the backbone has 3"):
        Engine(backbone).prepare(foreign)
    deep = replace(weights, forms=replace(weights.forms, kept={"blocks.9.mlp": Kept(1, UNITS)}))
    with pytest.raises(BackboneMismatchError, match="the backbone has 0"):
        Engine(backbone).prepare(deep)


def test_a_backbone_with_a_norm_over_all_heads_keeps_its_width(tmp_path):
    normed = make_backbone(tmp_path, scale_attn_norm=True)
    weights = random_weights(normed, 0, depth=1, first=2)
    narrow = replace(weights, forms=replace(weights.forms, kept={"blocks.0.attn": Kept(1, HEADS)}))
    with pytest.raises(UnservedBackboneError, match="keep its full width"):
        Engine(normed).prepare(narrow)
    with pytest.raises(UnservedBackboneError, match="keep its full width"):
        normed.narrow(random_width(0, 2, **SIZES)).build()


@pytest.mark.parametrize(
    ("width", "rule"),
    [
        (random_width(1, 2, heads=HEADS, units=100), "of 3 heads and 100 units a block, and of random/vit"),
        (random_width(1, 2, heads=6, units=UNITS), "it has 3 heads in a block"),
        (random_width(1, 2, heads=5, units=UNITS), "use it with the backbone it was made for"),
    ],
)
def test_an_index_of_another_backbone_is_refused_at_publish_and_nothing_is_written(shop, tmp_path, width, rule):
    made = make_peft_task(
        narrow_twin(shop.backbone, random_width(1, 2, **SIZES)),
        TaskFolder(tmp_path, 2),
        CONFIGS["lora"](["blocks.0.attn.qkv"], 2),
        classes=3,
    )
    before = shop.store.search().rows
    with pytest.raises(BackboneMismatchError, match=rule):
        published(shop, made.folder, width)
    assert shop.store.search().rows == before


FULL_SHAPES = {
    "lora": "has factors of shapes",
    "oft": "has factors of shapes",
    "boft": "has factors of shapes",
    "road": "has factors of shapes",
    "road, four numbers": "has factors of shapes",
}


@pytest.mark.parametrize(("method", "rule"), FULL_SHAPES.items())
def test_an_adapter_of_the_full_shape_is_refused_with_a_width(shop, tmp_path, method, rule):
    targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in LINEAR]
    made = make_peft_task(shop.backbone, TaskFolder(tmp_path, 2), CONFIGS[method](targets, 2), classes=3)
    before = shop.store.search().rows
    with pytest.raises(AdapterMismatchError, match=rule) as refused:
        published(shop, made.folder, WidthIndex.of([(1, mask_of(range(64)))] * 2, **SIZES))
    assert len(str(refused.value).splitlines()) == 1
    assert shop.store.search().rows == before


@pytest.mark.parametrize("method", ["oft", "oft, shared", "road"])
def test_turns_of_a_size_that_does_not_divide_what_is_kept_are_refused_in_one_line(shop, tmp_path, method):
    """A shared turn has the same numbers whatever is kept, so its size alone tells."""
    targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in ("mlp.fc1", "mlp.fc2")]
    made = make_peft_task(shop.backbone, TaskFolder(tmp_path, 2), CONFIGS[method](targets, 2), classes=3)
    with pytest.raises(AdapterMismatchError, match="divide") as refused:
        published(shop, made.folder, WidthIndex.of([(7, mask_of(range(37)))] * 2, **SIZES))
    assert len(str(refused.value).splitlines()) == 1
