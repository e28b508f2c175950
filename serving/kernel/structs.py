"""What the kernel's C interface takes, as `native/abi.h` declares it: every field has eight bytes."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int64, c_void_p

MAPS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NORMS = ("norm1", "norm2")
BRANCHES = ("attn", "mlp")
INPUTS = ("normed", "residual", "output", "sum")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu")

# Of the integers that make a task's `Forms` in one block: (a, b, rank, bias, out_scale, in_scale) for each map,
# (weight, bias) for each norm, nine for each bottleneck, in the order of `Bottleneck`, (heads, qkv, proj, hidden), and
# (places, count) of tokens.
DELTA_FIELDS, NORM_FIELDS, BOTTLENECK_FIELDS, KEPT_FIELDS, TOKENS_FIELDS = 6, 2, 9, 4, 2
NORMS_AT = len(MAPS) * DELTA_FIELDS
BOTTLENECKS_AT = NORMS_AT + len(NORMS) * NORM_FIELDS
KEPT_AT = BOTTLENECKS_AT + len(BRANCHES) * BOTTLENECK_FIELDS
TOKENS_AT = KEPT_AT + KEPT_FIELDS
TOKEN_COUNT_AT = TOKENS_AT + 1
FORMS_FIELDS = TOKENS_AT + TOKENS_FIELDS
EXIT_ARRAYS = 4  # the addresses of an `Exit`: its norm's weight and bias, its head's weight and bias
EXIT_FIELDS = 7


class Linear(Structure):
    """A packed weight and a float32 bias; out and in are multiples of 32."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("out", c_int64), ("in_", c_int64)]


class Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Block(Structure):
    _fields_ = [
        ("maps", Linear * len(MAPS)),
        ("norms", Norm * len(NORMS)),
        ("query", Norm),
        ("key", Norm),
        ("scales", c_void_p * 2),
    ]


class Model(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("dim", "heads", "hidden", "tokens", "prefix", "grid_height", "grid_width")),
        ("blocks", c_int64),
        ("activation", c_int64),
        *((name, c_double) for name in ("norm_eps", "query_key_eps", "last_eps", "attention_scale")),
        ("block", POINTER(Block)),
        ("patch", Linear),
        ("patch_height", c_int64),
        ("patch_width", c_int64),
        ("position", c_void_p),
        ("before", Norm),
        ("pooled", Norm),
        ("average", c_int64),
    ]


class Run(Structure):
    _fields_ = [
        ("model", POINTER(Model)),
        ("rows", c_void_p),
        ("row_count", c_int64),
        ("x", c_void_p),
        ("images", c_void_p),
        ("from_", c_int64),
        ("to", c_int64),
        ("slices", c_int64),
    ]
