"""Which module of a timm ViT a tensor of an adapter belongs to, whatever wrapped the model when it was saved.

A name is a prefix, the list of blocks, a block's number, a module in the block and a part of the adapter:
`base_model.model.` `vit.encoder.layer` `.3.` `attention.attention.query` `.lora_A.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from store.adapters.methods.spec import PREFIX
from store.errors import AdapterMismatchError

LAYER = re.compile(r"(?:^|(?<=\.))(?P<blocks>blocks|(?:encoder\.)?layers?)\.(?P<number>\d{1,6})\.(?P<tail>.+)")
STAGE = re.compile(
    r"(?:^|(?<=\.))layers\.(?P<stage>\d{1,4})\.(?P<kind>blocks\.(?P<number>\d{1,6})|downsample)\.(?P<tail>.+)"
)
"""As timm names what is in a stage of a Swin."""
HEAD = re.compile(r"(?:^|.*\.)(?P<module>head|classifier|fc)\.(?P<rest>(?:[\w-]+\.)*)(?P<part>weight|bias)")
LAST_NORM = re.compile(r"(?:^|.*\.)(?:norm|layernorm)\.(?P<part>ln_tuning_layers\..+)")
SHARED = re.compile(r"(?:.*\.)?(?P<name>base_model\.(?!model\.).+)")
FAMILIES = ("vit", "deit", "dinov2", "dinov2_with_registers")

SEPARATE = ("attn.q", "attn.k", "attn.v")
"""The parts of timm's `attn.qkv`, which transformers keeps as three maps."""

_CLASSIC = dict(
    zip(SEPARATE, ("attention.attention.query", "attention.attention.key", "attention.attention.value"), strict=True)
)
_NEW = dict(zip(SEPARATE, ("attention.q_proj", "attention.k_proj", "attention.v_proj"), strict=True))
_MLP = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_VIT_NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
_DINO_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_DENSE = {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}

SPELLINGS: tuple[tuple[tuple[str, ...], Mapping[str, str]], ...] = (
    (("vit", "deit"), MappingProxyType({**_CLASSIC, "attn.proj": "attention.output.dense", **_DENSE, **_VIT_NORMS})),
    (("vit", "deit"), MappingProxyType({**_NEW, "attn.proj": "attention.o_proj", **_MLP, **_VIT_NORMS})),
    (FAMILIES[2:], MappingProxyType({**_CLASSIC, "attn.proj": "attention.output.dense", **_MLP, **_DINO_NORMS})),
    (FAMILIES[2:], MappingProxyType({**_NEW, "attn.proj": "attention.o_proj", **_MLP, **_DINO_NORMS})),
)
"""The families of transformers, and how their modules in a block are spelled: before version 5 and since."""

TAILS: Mapping[str, str] = MappingProxyType(
    {tail: module for _, spelling in SPELLINGS for module, tail in spelling.items()}
)
LONGEST_FIRST = sorted(TAILS, key=len, reverse=True)


@dataclass(frozen=True)
class ModuleNames:
    """How an adapter's file spells the modules: the prefix that all tensors share, and the list of blocks."""

    prefix: str
    blocks: str
    tails: frozenset[str] = frozenset()
    """Of transformers' modules that the file adapts."""

    @property
    def is_timm(self) -> bool:
        return self.blocks in ("blocks", "stages")

    @property
    def inner(self) -> str:
        """What stands before the list of blocks in the model that PEFT adapted."""
        *outer, inner = self.prefix.rpartition(PREFIX)
        return inner if outer[1] else re.sub(r"^(?:(?:module|_orig_mod)\.)+", "", self.prefix)

    def spelling(self) -> Mapping[str, str]:
        """Return each module in a block as transformers spells it in this file."""
        family = self.inner.rstrip(".").rpartition(".")[2]
        fitting = [(names, spelling) for names, spelling in SPELLINGS if self.tails <= set(spelling.values())]
        ordered = sorted(fitting, key=lambda pair: family in FAMILIES and family not in pair[0])
        if not ordered:
            raise AdapterMismatchError(
                f"the adapter mixes the module names of several models ({', '.join(sorted(self.tails))[:200]}): "
                "save it with PEFT again"
            )
        return ordered[0][1]

    def original(self, module: str) -> str:
        """Return the path that PEFT knew a module by, of one such as `blocks.3.attn.q`."""
        if self.is_timm:
            return self.inner + module
        if not module.startswith("blocks."):
            return f"{self.inner}layernorm"
        _, number, kind = module.split(".", 2)
        return f"{self.inner}{self.blocks}.{number}.{self.spelling()[kind]}"


def find_names(tensors: Iterable[str]) -> ModuleNames | None:
    """Return how the file spells its modules; None where no tensor belongs to a block.

    Raises `AdapterMismatchError` where the prefixes differ.
    """
    found = {name: STAGE.search(name) or LAYER.search(name) for name in tensors}
    matches = [(name, match) for name, match in found.items() if match is not None]
    kinds = {(name[: match.start()], "stages" if match.re is STAGE else match["blocks"]) for name, match in matches}
    if len(kinds) > 1:
        (first, _), (second, _), *_ = sorted(kinds)
        raise AdapterMismatchError(
            f"the adapter's tensors stand under {first[:80]!r} and {second[:80]!r}: save one model with PEFT again"
        )
    for prefix, blocks in kinds:
        tails = (_split_tail(match["tail"])[0] for _, match in matches)
        return ModuleNames(prefix, blocks, frozenset(tails) if blocks not in ("blocks", "stages") else frozenset())
    return None


def timm_name(tensor: str, names: ModuleNames, home: str = PREFIX) -> str:
    """Return the tensor's name in an adapter of a timm ViT, q, k and v apart; `home` stands before every module."""
    if (match := STAGE.search(tensor)) is not None and names.is_timm:
        return home + tensor[match.start() :]
    match = LAYER.search(tensor)
    if match is not None:
        tail = match["tail"]
        if not names.is_timm:
            transformers_tail, part = _split_tail(tail)
            tail = f"{TAILS[transformers_tail]}.{part}"
        return f"{home}blocks.{int(match['number'])}.{tail}"
    if (norm := LAST_NORM.fullmatch(tensor)) is not None:
        return f"{PREFIX}norm.{norm['part']}"
    if not home and tensor.startswith(names.prefix):
        return tensor.removeprefix(names.prefix)
    shared = SHARED.fullmatch(tensor)
    return tensor if shared is None else shared["name"]


def _split_tail(tail: str) -> tuple[str, str]:
    for known in LONGEST_FIRST:
        if tail.startswith(f"{known}."):
            return known, tail[len(known) + 1 :]
    raise AdapterMismatchError(
        f"module {tail[:120]!r} of a block is not one that is served: adapt query, key, value, dense, fc1 and fc2 of a "
        "ViT, DeiT or DINOv2"
    )
