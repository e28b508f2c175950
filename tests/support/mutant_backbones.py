"""Backbones that differ from the toy one in one thing: in its weights, or in its record of them."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import load, save

from store.records.backbone import BackboneRecord
from store.records.blob import canonical_json
from support.toy_backbone import BLOCKS, DIM, Toy

FLIPS_IN_HEADER, FLIPS_IN_DATA = 300, 500
DTYPES = (torch.float16, torch.bfloat16, torch.float64)
PREPROCESSING: dict[str, list[object]] = {
    "height": [31, 33, 64, 224],
    "width": [31, 33, 64, 224],
    "interpolation": ["bilinear", "nearest", "lanczos", "BICUBIC", ""],
    "mean": [(0.485, 0.456, 0.406), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5000000000000001), (0.5, 0.5, 0.4)],
    "std": [(0.229, 0.224, 0.225), (1.0, 1.0, 1.0), (0.5, 0.49999999999999994, 0.5), (0.4, 0.5, 0.5)],
    "crop_pct": [0.875, 0.95, 1.0, 0.9000000000000001],
    "crop_mode": ["squash", "border", "Center", ""],
}
ARGUMENTS: dict[str, list[object]] = {
    "num_heads": [1, 2, 4, 6, 8, 12, 3.0, "3", None],
    "depth": [1, 2, 3, 5, 12],
    "img_size": [24, 40, 64, 224, [32, 32]],
    "patch_size": [4, 16],
    "embed_dim": [24, 96, 192],
    "qk_norm": [True, False],
    "init_values": [1e-5],
    "class_token": [False],
    "global_pool": ["avg", "token"],
    "pre_norm": [True],
    "act_layer": ["relu"],
}
ARCHITECTURES = ("vit_small_patch16_224", "deit_tiny_patch16_224", "vit_tiny_patch16_384", "VIT_TINY_PATCH16_224", "")


@dataclass(frozen=True)
class Mutant:
    what: str
    record: BackboneRecord
    weights: bytes


def of_bytes(toy: Toy, draw: random.Random) -> Iterator[Mutant]:
    start = 8 + int.from_bytes(toy.weights[:8], "little")
    places = [*draw.sample(range(start), FLIPS_IN_HEADER), *draw.sample(range(start, len(toy.weights)), FLIPS_IN_DATA)]
    for place in (*places, 0, 7, 8, start - 1, start, len(toy.weights) - 1):
        data, bit = bytearray(toy.weights), draw.randrange(8)
        data[place] ^= 1 << bit
        yield Mutant(f"bit {bit} of byte {place}", toy.record, bytes(data))


def of_tensors(toy: Toy) -> Iterator[Mutant]:
    tensors = load(toy.weights)

    def changed(what: str, **values: torch.Tensor) -> Mutant:
        return Mutant(what, toy.record, save({**tensors, **values}))

    for one, other in itertools.combinations(tensors, 2):
        if tensors[one].shape == tensors[other].shape and not torch.equal(tensors[one], tensors[other]):
            yield changed(f"{one} and {other} swapped", **{one: tensors[other], other: tensors[one]})
    for name, tensor in tensors.items():
        rest = {key: value for key, value in tensors.items() if key != name}
        yield Mutant(f"{name} missing", toy.record, save(rest))
        yield Mutant(f"{name} renamed", toy.record, save({**rest, f"{name}_": tensor}))
        yield changed(f"{name} of another shape", **{name: tensor.reshape(-1, 1).clone()})
        yield changed(f"{name} nudged", **{name: torch.nextafter(tensor, torch.full_like(tensor, 9))})
        for dtype in DTYPES:
            yield changed(f"{name} as {dtype}", **{name: tensor.to(dtype)})
    yield changed("one more tensor", extra=torch.zeros(1))
    for seed in range(1, 31):
        torch.manual_seed(seed)
        noise = {name: torch.randn_like(tensor) for name, tensor in tensors.items()}
        yield changed(f"another model, seed {seed}", **noise)


def of_depths(toy: Toy) -> Iterator[Mutant]:
    """Cut the weights, the arguments, and both, under the fingerprint of the whole."""
    tensors = load(toy.weights)
    for depth in range(1, BLOCKS):
        kept = {
            name: t for name, t in tensors.items() if not name.startswith("blocks.") or int(name.split(".")[1]) < depth
        }
        cut = dataclasses.replace(toy.record, blocks=depth)
        yield Mutant(f"{depth} blocks of weights", toy.record, save(kept))
        yield Mutant(f"{depth} blocks in weights and record", cut, save(kept))
        yield Mutant(f"{depth} blocks in the record", cut, toy.weights)


def of_records(toy: Toy) -> Iterator[Mutant]:
    identity = toy.record.id
    for field, values in PREPROCESSING.items():
        for value in values:
            other = dataclasses.replace(identity.preprocessing, **{field: value})
            yield _identified(toy, f"{field} {value}", preprocessing=other)
    for key, values in ARGUMENTS.items():
        for value in values:
            yield _identified(toy, f"{key}={value!r}", arguments={**identity.arguments, key: value})
        yield _identified(toy, f"no {key}", arguments={k: v for k, v in identity.arguments.items() if k != key})
    for name in ARCHITECTURES:
        yield _identified(toy, f"architecture {name!r}", architecture=name)
    for digit in range(64):
        swapped = "0" if identity.fingerprint[digit] != "0" else "1"
        yield _identified(
            toy,
            f"digit {digit}",
            fingerprint=identity.fingerprint[:digit] + swapped + identity.fingerprint[digit + 1 :],
        )
    for field, value in (
        ("dim", DIM + 1),
        ("parameters", toy.record.parameters - 1),
        ("modules", {}),
        ("blocks", BLOCKS + 1),
    ):
        yield Mutant(f"{field} {value}", dataclasses.replace(toy.record, **{field: value}), toy.weights)


def _identified(toy: Toy, what: str, **changes: object) -> Mutant:
    return Mutant(what, dataclasses.replace(toy.record, id=dataclasses.replace(toy.record.id, **changes)), toy.weights)


def make_mutants(toy: Toy) -> list[Mutant]:
    """Return every one of them once, and never the toy itself."""
    found = [*of_bytes(toy, random.Random(0)), *of_tensors(toy), *of_depths(toy), *of_records(toy)]
    different = {(canonical_json(dataclasses.asdict(m.record)), m.weights): m for m in found}
    different.pop((canonical_json(dataclasses.asdict(toy.record)), toy.weights), None)
    return list(different.values())
