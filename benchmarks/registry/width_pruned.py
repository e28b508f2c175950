"""What a width-pruned model takes as Torch-Pruning (DepGraph) saves it, and as an index over the unpruned weights.

Follows the recipe that Torch-Pruning publishes for ViT-B/16 (examples/transformers/prune_timm_vit.py, pruning ratio
0.5, uniform), with the L1 norm for the importance, which needs no images. Sizes do not depend on the weights' values.
The files are saved in both ways that the tool documents: the module whole (README, "Save & Load"), and the weights with
the history of the pruning (tests/test_load.py). The index is a bit for each channel that could have gone; pruning a
fresh model by it has to give the same tensors. Beside each is what the storage report's formula says. Needs
`pip install torch-pruning==1.6.1`. Prints a table; JSON in benchmarks/results/registry_width_pruned.json.

    python -m benchmarks.registry.width_pruned
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import Attention
from torch import nn

from benchmarks.support.figures import conclude, machine
from benchmarks.support.options import make_parser, settings_of
from store.accounting.forms import FP32, depgraph_nbytes
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone

History = list[tuple[str, bool, list[int]]]
"""What was pruned in turn: a module, whether its outputs, and which of them."""


def main() -> None:
    parser = make_parser(__doc__, out="registry_width_pruned.json")
    parser.add_argument("--ratio", type=float, default=0.5, help="of the channels that go (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="of the head (default: %(default)s)")
    parser.add_argument("--packaged-alone", action="store_true", help="leave ViT-B/16 out")
    options = parser.parse_args()
    makers: dict[str, Callable[[], nn.Module]] = {DEFAULT_BACKBONE: lambda: packaged(options.classes)}
    if not options.packaged_alone:
        makers["vit_base_patch16_224"] = lambda: random_model("vit_base_patch16_224", options.classes)
    rows = [measure(name, make, options) for name, make in makers.items()]
    tool = importlib.metadata.version("torch-pruning")
    settings = settings_of(options)
    conclude(options.out, {"machine": machine(), "torch_pruning": tool, "options": settings, "models": rows})


def random_model(architecture: str, classes: int, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(architecture, num_classes=classes, **arguments).eval()


def packaged(classes: int) -> nn.Module:
    """Make the packaged backbone's model with a head, and with random weights."""
    identity = load_backbone(DEFAULT_BACKBONE).record.id
    return random_model(identity.architecture, classes, **identity.arguments)


def measure(name: str, make: Callable[[], nn.Module], options: argparse.Namespace) -> dict[str, object]:
    model = make()
    whole, head = count(model), count(model.head)
    history = prune(model, options.ratio)
    kept = count(model)
    index = pack(history, make())
    row: dict[str, object] = {
        "model": name,
        "parameters": whole,
        "head_parameters": head,
        "kept_parameters": kept,
        "module_nbytes": saved(model),
        "weights_and_history_nbytes": saved({"model": model.state_dict(), "pruning": history}),
        "history_nbytes": saved(history),
        "index_nbytes": len(index),
        "formula_of_the_kept_nbytes": FP32 * kept,
        "formula_of_the_report_nbytes": depgraph_nbytes(whole - head, head),
        "index_gives_the_same_tensors": replayed(index, history, make, model),
    }
    for key, value in row.items():
        print(
            f"{key:<40} {value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{key:<40} {value}"
        )
    print()
    return row


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def saved(value: object) -> int:
    """Return the bytes of the file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.tell()


def example(model: nn.Module) -> torch.Tensor:
    height, width = model.patch_embed.img_size
    return torch.zeros(1, 3, height, width)


def attend(self: Attention, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    """Attention whose width need not be that of its input, as the recipe has it."""
    rows, tokens, _width = x.shape
    qkv = self.qkv(x).reshape(rows, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    out = nn.functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
    return self.proj(out.transpose(1, 2).reshape(rows, tokens, -1))


def heads_of(model: nn.Module) -> dict[nn.Module, int]:
    """Let every attention have any width, and return the heads of each by its first linear map."""
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.forward = types.MethodType(attend, attention)
    return {attention.qkv: attention.num_heads for attention in attentions}


def prune(model: nn.Module, ratio: float) -> History:
    """Prune the model as the recipe does, by the L1 norm, and return what went."""
    importance = importlib.import_module("torch_pruning").importance.GroupMagnitudeImportance(p=1)
    history: History = prune_by(importance, model, ratio).pruning_history()
    for module in model.modules():
        if isinstance(module, Attention):
            del module.forward  # as its file has no function of this script
    return history


def prune_by(importance: object, model: nn.Module, ratio: float) -> Any:
    """Take this part of every width away, as the recipe does; return the pruner."""
    pruner = importlib.import_module("torch_pruning").pruner.BasePruner(
        model,
        example(model),
        importance=importance,
        pruning_ratio=ratio,
        ignored_layers=[model.head],
        num_heads=heads_of(model),
        prune_head_dims=True,
        round_to=1,
    )
    for group in pruner.step(interactive=True):
        group.prune()
    for module in model.modules():
        if isinstance(module, Attention):
            module.num_heads = pruner.num_heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
    return pruner


def channels(model: nn.Module, name: str, *, outputs: bool) -> int:
    """Return how many channels the named module or parameter has, on the side that was pruned."""
    found = model.get_parameter(name) if name in dict(model.named_parameters()) else model.get_submodule(name)
    if isinstance(found, nn.Parameter):
        return found.shape[-1]
    weight = found.weight
    return weight.shape[0 if outputs or weight.ndim == 1 else 1]


def pack(history: History, fresh: nn.Module) -> bytes:
    """Return a bit for each channel of each step; the steps' modules are the same for every model of a kind."""
    masks = []
    for name, outputs, gone in history:
        mask = np.zeros(channels(fresh, name, outputs=outputs), bool)
        mask[gone] = True
        masks.append(mask)
    return np.packbits(np.concatenate(masks)).tobytes()


def replayed(index: bytes, history: History, make: Callable[[], nn.Module], pruned: nn.Module) -> bool:
    """Return whether pruning a fresh model by the bits alone gives the same tensors."""
    tool = importlib.import_module("torch_pruning")
    model = make()
    bits = np.unpackbits(np.frombuffer(index, np.uint8)).astype(bool)
    steps, at = [], 0
    for name, outputs, _ in history:
        width = channels(model, name, outputs=outputs)
        steps.append((name, outputs, np.flatnonzero(bits[at : at + width]).tolist()))
        at += width
    heads_of(model)
    graph = tool.DependencyGraph().build_dependency(model, example(model))
    graph.load_pruning_history(steps)
    expected = pruned.state_dict()
    found = model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


if __name__ == "__main__":
    main()
