"""From the methods of our own (`store.own_methods`) to the forms that the engine multiplies with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from torch import Tensor

from store.adapters.methods.custom import BITFIT, BOTTLENECK, CONVPASS, PRESETS, SSF
from store.adapters.methods.spec import NORMS
from store.adapters.methods.targets import Config
from store.errors import UnservedAdapterError
from store.weights.forms import Activation, Bottleneck, Delta, Forms, Input, Norm

Tensors = Mapping[str, Tensor]


def lower_convpass(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """g(v) = (scale up)(act(conv(act(down v)))) beside attention and the MLP, on what their norms give."""
    return Forms(bottlenecks={path: _bottleneck("normed", "quick_gelu", tensors, path) for path in _modules(config)})


def lower_bottleneck(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """g(v) = (scale up)(act(down v)); v and act are the preset's."""
    preset = PRESETS[cast(str, config["preset"])]
    forms = {path: _bottleneck(preset.input, preset.activation, tensors, path) for path in _modules(config)}
    return Forms(bottlenecks=forms)


def lower_ssf(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = scale * (W x + b) + shift; a norm's weight is scale * w and its bias scale * b + shift."""
    deltas, norms = {}, {}
    for path in _modules(config):
        scale, shift = tensors[f"{path}.scale"].float(), tensors[f"{path}.shift"].float()
        if path.endswith(NORMS):
            weight, bias = _norm(backbone, path)
            norms[path] = Norm(scale * weight, scale * bias + shift)
        else:
            deltas[path] = Delta(out_scale=scale[None, None], bias=shift[None, None])
    return Forms(deltas, norms)


def lower_bitfit(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W x + b + bias; a norm's bias is b + bias."""
    deltas, norms = {}, {}
    for path in _modules(config):
        difference = tensors[f"{path}.bias"].float()
        if path.endswith(NORMS):
            weight, bias = _norm(backbone, path)
            norms[path] = Norm(weight, bias + difference)
        else:
            deltas[path] = Delta(bias=difference[None, None])
    return Forms(deltas, norms)


def _bottleneck(input_: Input, activation: Activation, tensors: Tensors, path: str) -> Bottleneck:
    up, up_bias = tensors[f"{path}.up.weight"].float(), tensors[f"{path}.up.bias"].float()
    scale = tensors.get(f"{path}.scale")  # of all channels or of each
    factor = up_bias.new_ones(()) if scale is None else scale.float()
    conv, conv_bias = tensors.get(f"{path}.conv.weight"), tensors.get(f"{path}.conv.bias")
    return Bottleneck(
        input=input_,
        activation=activation,
        down=tensors[f"{path}.down.weight"].float().T,
        down_bias=tensors[f"{path}.down.bias"].float(),
        up=up.T * factor,
        up_bias=up_bias * factor,
        conv=None if conv is None else conv.float(),
        conv_bias=None if conv_bias is None else conv_bias.float(),
    )


def _norm(backbone: Tensors, path: str) -> tuple[Tensor, Tensor]:
    weight, bias = backbone.get(f"{path}.weight"), backbone.get(f"{path}.bias")
    if weight is None or bias is None:
        raise UnservedAdapterError(
            f"{path!r} of this backbone is no layer norm with weight and bias, so its change has no exact served form: "
            "tune the linear maps alone"
        )
    return weight.float(), bias.float()


def _modules(config: Config) -> list[str]:
    return cast(list[str], config["target_modules"])


CUSTOM_LOWERINGS = MappingProxyType(
    {CONVPASS: lower_convpass, BOTTLENECK: lower_bottleneck, SSF: lower_ssf, BITFIT: lower_bitfit}
)
"""By `peft_type`: (config, the adapter's tensors, the backbone's tensors by timm's names) -> forms in float32."""
