"""Forms as the config and the tensors of an adapter that stock PEFT loads: LoRA, DoRA, IA3, BEFT or LN tuning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from store.adapters.methods.spec import PREFIX
from store.errors import UnservedAdapterError
from store.weights.forms import Delta, Forms, Norm
from store.weights.lowering.deltas import bias_of, in_order, weight_of

Settings = dict[str, object]
Tensors = Mapping[str, Tensor]
PathOf = Callable[[str], str]
"""The path by which PEFT knows a module, of its path in a timm ViT."""


def encode_forms(forms: Forms, backbone: Tensors) -> tuple[Settings, dict[str, Tensor]]:
    """Return an adapter of a timm ViT with these forms; raise `UnservedAdapterError` where PEFT has no such method."""
    if forms.bottlenecks:
        raise UnservedAdapterError(
            "its bottlenecks beside attention and the MLP are no method of PEFT: export it without a layout"
        )
    if forms.norms and forms.deltas:
        raise UnservedAdapterError(
            "it changes norms and linear maps, which no method of PEFT does: tune the linear maps alone"
        )
    return encode_norms(forms.norms) if forms.norms else encode_deltas(forms.deltas, backbone)


def encode_norms(norms: Mapping[str, Norm], path_of: PathOf = str) -> tuple[Settings, dict[str, Tensor]]:
    paths = {module: path_of(module) for module in norms}
    expression = "|".join(re.escape(path) for path in paths.values())  # a list would take in every module named `norm`
    tensors: dict[str, Tensor] = {}
    for module, norm in norms.items():
        stem = f"{PREFIX}{paths[module]}.ln_tuning_layers"
        tensors |= {f"{stem}.weight": norm.weight.clone(), f"{stem}.bias": norm.bias.clone()}
    return _settings("LN_TUNING", expression), tensors


def encode_deltas(
    deltas: Mapping[str, Delta], backbone: Tensors, path_of: PathOf = str
) -> tuple[Settings, dict[str, Tensor]]:
    """Encode the changes of linear maps: as IA3 where they scale alone, as BEFT where they shift alone, else as LoRA.

    `backbone` has the weights of the maps by the paths of `deltas`; `path_of` gives those that the file uses.
    """
    if any(delta.in_turn is not None for delta in deltas.values()):
        raise UnservedAdapterError("it turns the inputs of maps, which only OFT and BOFT do: export it as it is")
    if any(delta.out_turn is not None for delta in deltas.values()):
        return _encode_turns(deltas, path_of)
    if not any(delta.rank or delta.bias is not None for delta in deltas.values()):
        return _encode_scales(deltas, path_of)
    if any(delta.in_scale is not None for delta in deltas.values()):
        raise UnservedAdapterError("it scales inputs and adds to outputs, which no method of PEFT does: tune with one")
    if not any(delta.rank or delta.out_scale is not None for delta in deltas.values()):
        biases = {f"{PREFIX}{path_of(path)}.beft_bias": _row(d.bias)[None] for path, d in deltas.items()}
        return _settings("BEFT", [path_of(path) for path in deltas]), biases
    return _encode_lora(deltas, backbone, path_of)


def _encode_scales(deltas: Mapping[str, Delta], path_of: PathOf) -> tuple[Settings, dict[str, Tensor]]:
    tensors, feedforward = {}, []
    for module, delta in deltas.items():
        if delta.in_scale is not None and delta.out_scale is not None:
            raise UnservedAdapterError(
                f"module {module!r} scales inputs and outputs, which IA3 does not: tune with one"
            )
        if delta.in_scale is not None:
            feedforward.append(path_of(module))
            scale = _row(delta.in_scale)[None]
        else:
            scale = _row(delta.out_scale)[:, None]
        tensors[f"{PREFIX}{path_of(module)}.ia3_l"] = scale
    return _settings("IA3", [path_of(module) for module in deltas], feedforward_modules=feedforward), tensors


def _encode_turns(deltas: Mapping[str, Delta], path_of: PathOf) -> tuple[Settings, dict[str, Tensor]]:
    """Encode as RoAd with four numbers for each pair, of which two are angles whose cosine or sine is 1."""
    groups = {delta.group for delta in deltas.values()}
    if len(groups) > 1 or any(d.rank or d.bias is not None or d.out_turn is None for d in deltas.values()):
        raise UnservedAdapterError("it turns some maps and changes others otherwise, which RoAd does not: use one")
    (group,) = groups
    tensors: dict[str, Tensor] = {}
    for module, delta in deltas.items():
        second = _row(delta.out_turn).reshape(-1, 2, group // 2) * torch.tensor([-1.0, 1.0])[:, None]
        first = torch.ones(second.numel()) if delta.out_scale is None else _row(delta.out_scale)
        alpha = torch.stack([first.reshape(-1, group), second.reshape(-1, group)], dim=1)
        theta = torch.zeros_like(alpha)
        theta[:, 1] = torch.pi / 2
        stem = f"{PREFIX}{path_of(module)}"
        tensors |= {f"{stem}.road_theta": theta.flatten(), f"{stem}.road_alpha": alpha.flatten()}
    targets = [path_of(module) for module in deltas]
    return _settings("ROAD", targets, variant="road_4", group_size=group), tensors


def _encode_lora(deltas: Mapping[str, Delta], backbone: Tensors, path_of: PathOf) -> tuple[Settings, dict[str, Tensor]]:
    """Encode with a scaling of 1: the rank is alpha, module by module where the ranks differ."""
    dora = any(delta.out_scale is not None for delta in deltas.values())
    biased = any(delta.bias is not None for delta in deltas.values())
    ranks = {module: max(1, deltas[module].rank) for module in in_order(deltas)}
    tensors: dict[str, Tensor] = {}
    for module, rank in ranks.items():
        delta, weight = deltas[module], weight_of(backbone, module)
        a = weight.new_zeros(1, weight.shape[1]) if delta.a is None else delta.a[0].float()
        b = weight.new_zeros(weight.shape[0], rank) if delta.b is None else delta.b[0].float()
        stem = f"{PREFIX}{path_of(module)}"
        if dora:
            b, extra = _as_dora(module, delta, a, b, weight, bias_of(backbone, module), biased=biased)
            tensors |= {f"{stem}.{part}": tensor for part, tensor in extra.items()}
        elif biased:
            shift = weight.new_zeros(len(weight)) if delta.bias is None else _row(delta.bias)
            tensors[f"{stem}.lora_B.bias"] = shift
        tensors |= {f"{stem}.lora_A.weight": a.clone(), f"{stem}.lora_B.weight": b.clone()}
    most = max(ranks.values())
    patterns = {path_of(module): rank for module, rank in ranks.items() if rank != most}
    settings = _settings(
        "LORA",
        [path_of(module) for module in ranks],
        r=most,
        lora_alpha=most,
        rank_pattern=patterns,
        alpha_pattern=dict(patterns),
        lora_dropout=0.0,
        use_dora=dora,
        use_rslora=False,
        lora_bias=biased and not dora,
        bias="lora_only" if biased and dora else "none",
    )
    return settings, tensors


def _as_dora(
    module: str, delta: Delta, a: Tensor, b: Tensor, weight: Tensor, base: Tensor | None, *, biased: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """s (W x + bias_W) + b a x + bias as m / ||W + B a|| (W + B a) x + bias', with B = b / s."""
    scale = weight.new_ones(len(weight)) if delta.out_scale is None else _row(delta.out_scale)
    if bool((scale == 0).any()):
        raise UnservedAdapterError(f"module {module!r} scales an output by 0, which DoRA cannot: tune it again")
    up = b / scale[:, None]
    extra = {"lora_magnitude_vector": scale * torch.linalg.vector_norm(weight + up @ a, dim=1)}
    if base is None and delta.bias is not None:
        raise UnservedAdapterError(f"module {module!r} of the backbone has no bias to replace: tune without biases")
    if base is not None and biased:
        shift = weight.new_zeros(len(weight)) if delta.bias is None else _row(delta.bias)
        extra["base_layer.bias"] = scale * base + shift
    elif base is not None and not torch.equal(scale, torch.ones_like(scale)):
        raise UnservedAdapterError(f"module {module!r} scales the bias too, which DoRA does not: tune with DoRA")
    return up, extra


def _row(vector: Tensor | None) -> Tensor:
    assert vector is not None
    return vector.float().reshape(-1).clone()


def _settings(kind: str, targets: str | list[str], **options: object) -> Settings:
    return {"peft_type": kind, "target_modules": targets, "inference_mode": True, "task_type": None, **options}
