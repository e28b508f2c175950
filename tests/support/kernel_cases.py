"""Random backbones and tasks of every form for the engine's own kernel, and the slow twins that it is compared with."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from serving.engine.engine import Engine
from serving.engine.kernel_model import KernelModel
from serving.engine.torch_model import TorchModel
from serving.kernel.backbone import pack_backbone
from serving.kernel.instruction_sets import choose_kernel
from serving.kernel.kernel import Kernel
from serving.kernel.library import load_library
from serving.kernel.support import coverage
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights
from store.weights.width import kept_of, widths_of
from support.formula_oracle import plain_logits, random_weights
from support.narrow_twin import NarrowTwin, narrow_twin, random_width
from support.native_builds import native_build
from support.oracle import make_backbone
from support.token_twin import grid_of, random_tokens, with_tokens

HEAD_SIZES = (8, 16, 20, 24, 32, 40, 48, 64, 80)
PATCHES = (4, 6, 8, (4, 8), 20)
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu")
RANKS = (0, 0, 1, 2, 4, 15, 16, 17, 31, 32, 33, 64, 70)
WIDTHS = (1, 5, 8, 16, 17, 32, 40)
MOST_TOKENS, MOST_WORK = 300, 12_000  # tokens, and tokens times width: more takes a test longer and tests no more


def random_arguments(seed: int, most_work: int = MOST_WORK) -> dict[str, object]:
    """Draw timm's arguments for a backbone that the kernel runs: widths, heads, tokens, and each option that it has."""
    draw = random.Random(seed)
    dim = draw.choice(range(32, 193, 32))
    heads = draw.choice([size for size in HEAD_SIZES if dim % size == 0])
    patch = draw.choice(PATCHES)
    high, wide = patch if isinstance(patch, tuple) else (patch, patch)
    most = max(2, min(MOST_TOKENS, most_work // dim) - 8)
    rows = draw.randint(1, min(17, most))
    columns = draw.randint(2, max(2, min(17, most // rows)))  # torch's bfloat16 convolution makes NaN of one column
    pooled = draw.choice(
        ({}, {}, {"global_pool": "avg"}, {"global_pool": "avg", "class_token": False, "fc_norm": True})
    )
    prefix = draw.choice(({}, {"reg_tokens": 4}, {"reg_tokens": 1, "no_embed_class": True}))
    chance = {
        "qk_norm": True, "init_values": 0.3, "pre_norm": True, "qkv_bias": False, "mlp_ratio": draw.choice((2.7, 1, 9)),
        "act_layer": draw.choice(ACTIVATIONS),
    }  # fmt: skip
    drawn = {name: value for name, value in chance.items() if draw.random() < 0.4}
    sizes = {
        "embed_dim": dim,
        "num_heads": dim // heads,
        "patch_size": patch,
        "img_size": (rows * high, columns * wide),
    }
    return {**sizes, "depth": draw.randint(1, 3), **pooled, **prefix, **drawn}


def random_backbone(seed: int, most_work: int = MOST_WORK, **arguments: object) -> Backbone:
    """Make a backbone of bfloat16 numbers, some of its arguments given and the others drawn."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_backbone(Path(folder), **random_arguments(seed, most_work), **arguments)
    return replace(backbone, tensors={name: t.bfloat16().float() for name, t in backbone.tensors.items()})


@dataclass(frozen=True)
class Batch:
    """Rows of a batch; the tasks are of bfloat16 numbers, and `twins` are the backbones cut to what each keeps."""

    tasks: list[TaskWeights]
    images: Tensor
    image_of: list[int]
    twins: list[Backbone | NarrowTwin] = field(default_factory=list)

    def row(self, index: int) -> tuple[Tensor, list[TaskWeights]]:
        image = self.image_of[index]
        return self.images[image : image + 1], [self.tasks[index]]


def random_batch(backbone: Backbone, seed: int, *, rows: int, ranks: Sequence[int] = RANKS) -> Batch:
    """Draw tasks of any depth, first block, width and tokens, some twice, and images, some of which tasks share."""
    draw, blocks, grid = random.Random(seed), backbone.record.blocks, grid_of(backbone)
    tasks: list[TaskWeights] = []
    twins: list[Backbone | NarrowTwin] = []
    for index in range(rows):
        if tasks and draw.random() < 0.1:
            known = draw.randrange(index)
            tasks, twins = [*tasks, tasks[known]], [*twins, twins[known]]
            continue
        depth, number = draw.randint(1, blocks), 1000 * seed + index
        narrow = draw.random() < 0.5 and widths_of(backbone.skeleton()) is not None
        width = random_width(number, depth, **sizes_of(backbone)) if narrow else None
        twin = backbone if width is None else narrow_twin(backbone, width)
        drawn = random_weights(twin, number, first=draw.randint(1, depth + 1), depth=depth, ranks=ranks, widths=WIDTHS)
        drawn = replace(drawn, forms=replace(drawn.forms, kept=kept_of(width)))
        drawn = with_tokens(drawn, random_tokens(number, depth, grid) if draw.random() < 0.4 else None)
        if "norm.weight" not in backbone.tensors:  # the norm comes after pooling, and is no task's
            drawn.forms.norms.pop("norm", None)
        tasks, twins = [*tasks, in_bfloat16(drawn)], [*twins, twin]
    size = backbone.record.id.preprocessing
    images = torch.randn(rows, 3, size.height, size.width, generator=torch.Generator().manual_seed(seed))
    shared = [draw.randrange(rows) if draw.random() < 0.3 else index for index in range(rows)]
    return Batch(tasks, images.bfloat16().float(), shared, twins)


def sizes_of(backbone: Backbone) -> dict[str, int]:
    """Return how many heads and units a block has."""
    block = backbone.skeleton().blocks[0]
    return {"heads": block.attn.num_heads, "units": block.mlp.fc1.out_features}


def in_bfloat16(task: TaskWeights) -> TaskWeights:
    return replace(
        task,
        forms=task.forms.to("cpu", torch.bfloat16),
        head_weight=task.head_weight.bfloat16(),
        head_bias=task.head_bias.bfloat16(),
    )


def exact_logits(backbone: Backbone, batch: Batch) -> list[Tensor]:
    """Return what timm gives in float32, task by task, for the same bfloat16 numbers."""
    answers = []
    for index, task in enumerate(batch.tasks):
        image, _ = batch.row(index)
        forms = task.forms.to("cpu", torch.float32)
        whole = replace(task, forms=forms, head_weight=task.head_weight.float(), head_bias=task.head_bias.float())
        answers.append(plain_logits(batch.twins[index] if batch.twins else backbone, whole, image)[0])
    return answers


def best_library() -> Path:
    """Return the library that this CPU would run, or, where it can run none, the portable build."""
    return choose_kernel("auto").library or native_build("portable")


def kernel_engine(backbone: Backbone, library: Path, *, threads: int = 1) -> Engine:
    """Return an engine that runs this library of the kernel, whatever the CPU's best one is."""
    vit = backbone.build(dtype=torch.bfloat16)
    covered = coverage(vit)
    assert covered.blocks, covered.reason
    packed = pack_backbone(load_library(library), vit, covered)
    kernel = Kernel(library, vit, packed, covered, threads=threads)
    engine = Engine(backbone, dtype=torch.bfloat16, kernel="off", batch_invariant=True)
    in_torch = cast(TorchModel, engine._model)
    engine._model = KernelModel(kernel, None if covered.stem and covered.pooling else vit, vit, lambda: in_torch)
    return engine


def error(answers: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return the root mean square of the rows' errors, each over the size of its exact logits.

    Their spread says nothing where a task has two classes of like logits.
    """
    rows = [(one - other).square().mean() / other.square().mean() for one, other in zip(answers, exact, strict=True)]
    return float(torch.stack(rows).mean().sqrt())
