"""The slow twin of the forms: one task at a time, written into a copy of timm's model, formula by formula."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.core_threads import CoreThreads
from serving.engine.engine import Engine
from store.weights.backbones import Backbone
from store.weights.forms import Bottleneck, Delta, Forms, Norm, TaskWeights
from support.token_twin import take_out

LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "quick_gelu": lambda v: v * torch.sigmoid(1.702 * v)}


class PlainLinear(nn.Module):
    def __init__(self, base: nn.Linear, delta: Delta) -> None:
        super().__init__()
        self.base, self.delta = base, delta

    def forward(self, x: Tensor) -> Tensor:
        d = self.delta
        inputs = x if d.in_scale is None else x * d.in_scale
        if d.in_turn is not None:
            parts = inputs.split(d.in_turn.shape[2], dim=2)
            inputs = torch.cat([part @ turn for part, turn in zip(parts, d.in_turn[0], strict=True)], dim=2)
        h = self.base(inputs)
        y = h if d.out_scale is None else h * d.out_scale
        if d.out_turn is not None:
            halves = h.split(d.group // 2, dim=2)
            pairs = zip(halves[::2], halves[1::2], strict=True)
            exchanged = [half for first, second in pairs for half in (second, first)]
            y = y + d.out_turn * torch.cat(exchanged, dim=2)
        y = y if d.a is None else y + x @ d.a[0].T @ d.b[0].T
        return y if d.bias is None else y + d.bias


class PlainBlock(nn.Module):
    def __init__(self, block: Block, attn: Bottleneck | None, mlp: Bottleneck | None, grid: tuple[int, int]) -> None:
        super().__init__()
        self.block, self.attn, self.mlp, self.grid = block, attn, mlp, grid

    def forward(self, x: Tensor) -> Tensor:
        b = self.block
        h = b.norm1(x)
        x = self.join(x, h, b.ls1(b.attn(h)), self.attn)
        h = b.norm2(x)
        return self.join(x, h, b.ls2(b.mlp(h)), self.mlp)

    def join(self, x: Tensor, normed: Tensor, output: Tensor, form: Bottleneck | None) -> Tensor:
        if form is None:
            return x + output
        v = {"normed": normed, "residual": x, "output": output, "sum": x + output}[form.input]
        act = ACTIVATIONS[form.activation]
        hidden = act(v @ form.down + form.down_bias)
        if form.conv is not None:
            height, width = self.grid
            prefix = hidden.shape[1] - height * width
            alone = [F.conv2d(hidden[:, i, :, None, None], form.conv, form.conv_bias, padding=1) for i in range(prefix)]
            patches = hidden[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
            patches = F.conv2d(patches, form.conv, form.conv_bias, padding=1).flatten(2)
            hidden = act(torch.cat([*(each.flatten(2) for each in alone), patches], dim=2).transpose(1, 2))
        return x + output + hidden @ form.up + form.up_bias


@torch.inference_mode()
def plain_logits(backbone: Backbone, task: TaskWeights, images: Tensor) -> Tensor:
    """Logits (n, classes) of images (n, 3, H, W) in float32."""
    vit: VisionTransformer = backbone.build()
    del vit.blocks[task.depth :]
    for path, delta in task.forms.deltas.items():
        vit.set_submodule(path, PlainLinear(vit.get_submodule(path), delta))
    for path, norm in task.forms.norms.items():
        vit.get_submodule(path).weight.data = norm.weight
        vit.get_submodule(path).bias.data = norm.bias
    for index in range(task.depth):
        beside = (task.forms.bottlenecks.get(f"blocks.{index}.{place}") for place in ("attn", "mlp"))
        vit.blocks[index] = PlainBlock(vit.blocks[index], *beside, vit.patch_embed.grid_size)
    return F.linear(take_out(vit, task.forms.tokens)(images), task.head_weight, task.head_bias)


def random_weights(
    backbone: Backbone,
    seed: int,
    *,
    first: int = 1,
    depth: int | None = None,
    ranks: Sequence[int] = (0, 0, 3, 5),
    widths: Sequence[int] = (2, 5),
) -> TaskWeights:
    """Draw forms of every kind on blocks first..depth, each present or not, and a head of 2 to 50 classes."""
    draw, dim = random.Random(seed), backbone.record.dim
    torch.manual_seed(seed)
    depth = draw.randint(1, backbone.record.blocks) if depth is None else depth

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape) * 0.1

    deltas, norms, bottlenecks = {}, {}, {}
    for block in range(first - 1, depth):
        for name in LINEAR:
            out, fan_in = backbone.record.modules[f"blocks.{block}.{name}"]
            rank = draw.choice(ranks)
            shapes = {"bias": out, "in_scale": fan_in, "out_scale": out}
            rest = {key: some(1, 1, size) + ("scale" in key) for key, size in shapes.items() if draw.random() < 0.4}
            factors = {"a": some(1, rank, fan_in) / max(1, rank / 5) ** 0.5, "b": some(1, out, rank)} if rank else {}
            if factors or rest:
                deltas[f"blocks.{block}.{name}"] = Delta(**factors, **rest)
        for name in ("norm1", "norm2"):
            if draw.random() < 0.3:
                norms[f"blocks.{block}.{name}"] = Norm(1 + some(dim), some(dim))
        for place in ("attn", "mlp"):
            if draw.random() < 0.4:
                hidden = draw.choice(widths)
                conv = (some(hidden, hidden, 3, 3), some(hidden)) if draw.random() < 0.4 else (None, None)
                bottlenecks[f"blocks.{block}.{place}"] = Bottleneck(
                    draw.choice(("normed", "residual", "output", "sum")), draw.choice(tuple(ACTIVATIONS)),
                    some(dim, hidden), some(hidden), some(hidden, dim), some(dim), *conv,
                )  # fmt: skip
    if draw.random() < 0.3:
        norms["norm"] = Norm(1 + some(dim), some(dim))
    classes = draw.randint(2, 50)
    return TaskWeights(depth, Forms(deltas, norms, bottlenecks), torch.randn(classes, dim), torch.randn(classes), ())


def on_core_threads(engine: Engine, count: int) -> Engine:
    """Have the engine divide its batches among so many core threads, however little there is to do."""
    engine._model = replace(engine._model, threads=CoreThreads(count, enough=0))
    return engine


def check_mix(engine: Engine, made: Sequence[tuple[TaskWeights, Backbone]], seed: int) -> None:
    """Compare a batch drawn from these tasks, each with its twin in timm, with what the twins answer one by one."""
    mix = random.Random(seed).choices(made, k=14)
    images, image_of = torch.randn(5, 3, 32, 32), [random.Random(seed).randrange(5) for _ in mix]
    answers = engine.forward(images, [task for task, _ in mix], image_of)
    for logits, (task, twin), image in zip(answers, mix, image_of, strict=True):
        expected = plain_logits(twin, task, images[image][None])[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
