from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from support.toy_backbone import BLOCKS, Toy

from store.adapters.backbone_fingerprint import TORCH_NAMES, Fingerprints, check_fingerprint, fingerprint_file
from store.errors import BackboneMismatchError, FormatError
from store.records.backbone import Preprocessing
from store.records.blob import Blob
from store.weights.backbones import fingerprint

PREPROCESSING = Preprocessing(32, 32, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 0.9, "center")
NAMED = ("vit_tiny_patch16_224", {"depth": 4, "qk_norm": False, "init_values": None}, PREPROCESSING)
DTYPES = [getattr(torch, name.removeprefix("torch.")) for name in TORCH_NAMES.values()]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
tensors = st.dictionaries(
    names, st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=5
)


def fill(dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """Random bytes of this dtype; a bool's are 0 and 1."""
    nbytes = math.prod(shape) * dtype.itemsize
    high = 2 if dtype is torch.bool else 256
    return torch.randint(high, (nbytes,), dtype=torch.uint8).view(dtype).reshape(shape)


@settings(max_examples=300, deadline=None)
@given(tensors)
def test_a_files_bytes_have_the_fingerprint_of_the_tensors_that_torch_reads_from_them(
    specs: dict[str, tuple[torch.dtype, list[int]]],
) -> None:
    weights = {name: fill(dtype, shape) for name, (dtype, shape) in specs.items()}
    assert fingerprint_file(save(weights), *NAMED) == fingerprint(*NAMED, weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [[], [0], [1], [3, 0, 2], [2, 3, 4, 5]], ids=str)
def test_every_dtype_and_shape_counts(dtype: torch.dtype, shape: list[int]) -> None:
    weights = {"x": fill(dtype, shape), "scalar": fill(dtype, [])}
    expected = fingerprint_file(save(weights), *NAMED)
    assert expected == fingerprint(*NAMED, weights)
    reshaped = {**weights, "x": weights["x"].reshape([1, *shape])}
    assert fingerprint_file(save(reshaped), *NAMED) != expected


def test_the_order_of_the_file_and_its_metadata_do_not_count() -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(3, dtype=torch.float16)}
    expected = fingerprint_file(save(weights), *NAMED)
    assert fingerprint_file(save(dict(reversed(weights.items())), {"format": "pt"}), *NAMED) == expected


def test_a_dtype_that_torch_does_not_read_from_a_file_is_refused() -> None:
    header = b'{"x":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'
    with pytest.raises(FormatError, match=r"F8_E8M0.*convert it"):
        fingerprint_file(len(header).to_bytes(8, "little") + header + b"\1", *NAMED)


def test_the_toy_backbone_has_the_fingerprint_of_its_record(toy: Toy) -> None:
    check_fingerprint(toy.record, toy.weights)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": BLOCKS - 1},
        {"dim": 64},
        {"parameters": 1},
        {"modules": {"blocks.0.attn.qkv": (144, 48)}},
        {"modules": {}},
    ],
    ids=str,
)
def test_a_record_that_describes_other_weights_under_the_same_fingerprint_is_refused(
    toy: Toy, change: dict[str, object]
) -> None:
    (field,) = change
    with pytest.raises(BackboneMismatchError, match=f"record of backbone 'toy/vit' has {field}.*adopt_backbone"):
        check_fingerprint(dataclasses.replace(toy.record, **change), toy.weights)


def vit_b() -> bytes:
    """Weights as large as ViT-B's in float32: 343 MB."""
    block = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    return save({f"blocks.{b}.{name}.weight": torch.zeros(shape) for b in range(12) for name, shape in block.items()})


def test_a_vit_b_takes_less_than_a_second_and_the_second_check_of_the_same_bytes_nothing(toy: Toy) -> None:
    data = vit_b()
    assert len(data) > 339_000_000
    sha256, checks = Blob.of(data).sha256, Fingerprints()
    started = time.process_time()
    with pytest.raises(BackboneMismatchError):
        checks.check(toy.record, data, sha256=sha256)
    assert time.process_time() - started < 1
    started = time.process_time()
    for _ in range(100):
        with pytest.raises(BackboneMismatchError):
            checks.check(toy.record, data, sha256=sha256)
    assert time.process_time() - started < 0.2


def test_what_is_remembered_is_bounded_and_never_taken_for_another_file(toy: Toy) -> None:
    checks = Fingerprints()
    for number in range(100):
        other = save({"x": torch.full((1,), float(number))})
        with pytest.raises(BackboneMismatchError):
            checks.check(toy.record, other, sha256=Blob.of(other).sha256)
    checks.check(toy.record, toy.weights, sha256=Blob.of(toy.weights).sha256)
    assert sys.getsizeof(checks._leaves) < 10_000


def test_checking_a_fingerprint_imports_no_tensor_library() -> None:
    heavy = {"torch", "numpy", "safetensors"}
    code = f"import sys, store.adapters.backbone_fingerprint; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
