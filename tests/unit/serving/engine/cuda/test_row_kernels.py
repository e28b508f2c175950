"""Triton's kernels, interpreted on the CPU, against the torch path; and compiled for a GPU, without one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.oracle import make_backbone
from torch import nn

from serving.engine.cuda.pointer_tables import MAPS, MAX_RANK, NORMS, PointerTables
from serving.engine.cuda.row_ops import Place, StaticRows, TorchRowOps
from serving.engine.kernels import Linear
from store.weights.forms import Delta, Forms, Norm

pytest.importorskip("triton", reason="Triton comes with torch's builds for CUDA, and this build brings none")
triton_row_ops = pytest.importorskip("serving.engine.cuda.triton_row_ops")

ROOT = Path(__file__).parents[5]
RANKS = (0, 1, 3, 8, 16, 17, 40)
TOKENS = 33  # of which the last program of a row has some
ROWS = 4


def within(expected: torch.Tensor) -> float:
    """Two roundings of the result, or what other orders of summing leave in float32."""
    return max(4 * torch.finfo(expected.dtype).eps, 4e-6) * float(expected.abs().max())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"), depth=1)


def drawn(draw: random.Random, dtype: torch.dtype, *shape: int, around: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw.randrange(2**30))
    return torch.randn(shape, generator=generator).mul(0.2).add(around).to(dtype)


def random_delta(draw: random.Random, dtype: torch.dtype, fan_out: int, fan_in: int, *, scaled: bool) -> Delta:
    rank, parts = draw.choice(RANKS), {}
    if rank:
        parts = {"a": drawn(draw, dtype, 1, rank, fan_in), "b": drawn(draw, dtype, 1, fan_out, rank)}
    for part, size in (("bias", fan_out), ("in_scale", fan_in), ("out_scale", fan_out)):
        if draw.random() < 0.5 and (scaled or part != "out_scale"):
            parts[part] = drawn(draw, dtype, 1, 1, size, around=float("scale" in part))
    return Delta(**parts)


def random_forms(draw: random.Random, dtype: torch.dtype, backbone, *, scaled: bool = True) -> Forms:
    deltas = {
        f"blocks.0.{name}": random_delta(draw, dtype, *backbone.record.modules[f"blocks.0.{name}"], scaled=scaled)
        for name in MAPS
        if draw.random() < 0.8
    }
    dim = backbone.record.dim
    norms = {
        f"blocks.0.{name}": Norm(drawn(draw, dtype, dim, around=1.0), drawn(draw, dtype, dim))
        for name in NORMS
        if draw.random() < 0.5
    }
    return Forms(deltas, norms)


def loaded(vit, tasks: list[Forms]) -> StaticRows:
    """Static buffers that hold the tasks' tables, with rubbish where low-rank results will lie."""
    rows = StaticRows.make(ROWS, TOKENS, vit.blocks[0].norm1.weight, 1)
    rows.low.fill_(float("nan"))
    tables = PointerTables(vit)
    rows.table.copy_(tables.stack([tables.of(forms) for forms in tasks], ROWS))
    rows.forms = [*tasks, *[Forms()] * (ROWS - len(tasks))]
    return rows


def plain(module: nn.Linear) -> Linear:
    return Linear(module.weight.detach(), module.bias.detach(), packed=False)


def place_of(vit, name: str, *, scaled: bool = False) -> Place:
    """A map, after the norm that is before it in timm's block."""
    block = vit.blocks[0]
    return Place(0, name, scaled, {"attn.qkv": block.norm1, "mlp.fc1": block.norm2}.get(name))


@pytest.fixture(params=["programs of a GPU", "small programs"])
def programs(request, monkeypatch):
    """Programs that take all tokens and inputs of a tiny backbone, and smaller ones, of which each takes some."""
    if request.param == "small programs":
        for name, size in (("INPUTS", 32), ("TALL", 16), ("WIDE", 32)):
            monkeypatch.setattr(triton_row_ops, name, size)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("scaled", [False, True], ids=["begun with what is added", "outputs scaled"])
@pytest.mark.parametrize(
    ("dtype", "seed"), [(torch.float32, 0), (torch.float32, 1), (torch.bfloat16, 2), (torch.float16, 3)], ids=str
)
def test_a_linear_map_of_rows_of_many_tasks_is_the_torch_path_s(backbone, dtype, seed, scaled):
    draw, vit = random.Random(seed), backbone.build(dtype=dtype)
    tasks = [random_forms(draw, dtype, backbone, scaled=scaled) for _ in range(ROWS - 1)]
    rows = loaded(vit, tasks)
    kernels, twin = triton_row_ops.TritonRowOps(rows), TorchRowOps(rows)
    for name in MAPS:
        module = vit.get_submodule(f"blocks.0.{name}")
        base, place = plain(module), place_of(vit, name, scaled=scaled)
        x = 1 + drawn(draw, dtype, ROWS, TOKENS, module.in_features)
        for residual in (None, drawn(draw, dtype, ROWS, TOKENS, module.out_features)):
            expected = twin.linear(x, base, place, residual)
            own = kernels.linear(x.clone(), base, place, None if residual is None else residual.clone())
            torch.testing.assert_close(own, expected, atol=within(expected), rtol=0)


def test_the_highest_rank_of_a_table_is_multiplied_in_slices(backbone):
    draw, vit = random.Random(6), backbone.build()
    fan_out, fan_in = backbone.record.modules["blocks.0.attn.proj"]
    factors = drawn(draw, torch.float32, 1, MAX_RANK, fan_in), drawn(draw, torch.float32, 1, fan_out, MAX_RANK)
    rows = loaded(vit, [Forms({"blocks.0.attn.proj": Delta(*factors)})])
    x, base = drawn(draw, torch.float32, ROWS, TOKENS, fan_in), plain(vit.blocks[0].attn.proj)
    place = Place(0, "attn.proj", scaled=False)
    expected = TorchRowOps(rows).linear(x, base, place)
    own = triton_row_ops.TritonRowOps(rows).linear(x, base, place)
    torch.testing.assert_close(own, expected, atol=within(expected), rtol=0)


def test_rows_without_a_task_get_the_backbone_s_own_result_to_the_byte(backbone):
    vit = backbone.build()
    rows = loaded(vit, [])
    x = torch.randn(ROWS, TOKENS, backbone.record.dim)
    base = plain(vit.blocks[0].attn.qkv)
    own = triton_row_ops.TritonRowOps(rows).linear(x, base, Place(0, "attn.qkv", scaled=False))
    assert torch.equal(own, base(x))


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["mlp.fc1", "mlp.fc2"])
def test_a_nan_in_the_factors_or_the_image_of_a_row_stays_in_that_row(backbone, name, scaled):
    draw, vit = random.Random(3), backbone.build()
    fan_out, fan_in = backbone.record.modules[f"blocks.0.{name}"]

    def results(poisoned: int | None) -> torch.Tensor:
        tasks = [random_forms(random.Random(row), torch.float32, backbone, scaled=scaled) for row in range(ROWS)]
        x = torch.randn(ROWS, TOKENS, fan_in, generator=torch.Generator().manual_seed(0))
        if poisoned is not None:
            x[poisoned] = float("nan")
            bad = torch.full((1, 5, fan_in), float("inf")), torch.full((1, fan_out, 5), float("nan"))
            tasks[poisoned] = Forms({f"blocks.0.{name}": Delta(*bad)})
        base, rows = nn.Linear(fan_in, fan_out).requires_grad_(False), loaded(vit, tasks)
        base.weight.copy_(vit.get_submodule(f"blocks.0.{name}").weight)
        base.bias.zero_()
        return triton_row_ops.TritonRowOps(rows).linear(x, plain(base), place_of(vit, name, scaled=scaled))

    clean, row = results(None), draw.randrange(ROWS)
    poisoned = results(row)
    assert poisoned[row].isnan().all()
    others = [index for index in range(ROWS) if index != row]
    assert torch.equal(poisoned[others], clean[others])


COMPILE = """
import re
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from serving.engine.cuda import row_kernels as kernels

POINTERS, NUMBERS = ("x", "inputs", "y", "low", "into", "base_bias"), {"eps": "fp32", "table": "*i64", "norms": "*i64"}
CONSTANTS = dict.fromkeys(("BASE", "BIASED", "RESIDUAL"), True)
CONSTANTS |= {"WIDEN": False, "TOKENS": 32, "INPUTS": 128, "OUTPUTS": 128, "DIM": 1024}
for kernel in (kernels.norm_prologue, kernels.prologue, kernels.add_low_rank):
    names, constants = kernel.arg_names, {name: CONSTANTS[name] for name in kernel.arg_names if name in CONSTANTS}
    kinds = {name: "*bf16" if name in POINTERS else NUMBERS.get(name, "i32") for name in names}
    signature = kinds | dict.fromkeys(constants, "constexpr")
    made = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, len(re.findall("mma", made.asm["ptx"])))
"""


def test_the_kernels_compile_for_a_gpu_and_their_products_run_on_its_matrix_units():
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    products = {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}
    assert products.keys() == {"norm_prologue", "prologue", "add_low_rank"}
    assert min(products.values()) > 0
