"""PEFT's methods that have an exact form, each with the options that change what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from peft import (
    AdaLoraConfig,
    BeftConfig,
    BOFTConfig,
    DeftConfig,
    DeloraConfig,
    GloraConfig,
    GraloraConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    PeanutConfig,
    PeftConfig,
    PveraConfig,
    RoadConfig,
    TinyLoraConfig,
    UniLoraConfig,
    VBLoRAConfig,
    VeraConfig,
)

Configure = Callable[[list[str], int], PeftConfig]
"""(full paths of linear maps, rank) -> a config of stock PEFT."""


def _ia3(targets: list[str], feedforward: list[str]) -> IA3Config:
    named = {path for path in targets if any(path.endswith(name) for name in feedforward)}
    return IA3Config(target_modules=targets, feedforward_modules=sorted(named))


def _norms(targets: list[str]) -> LNTuningConfig:
    blocks = sorted({path.split(".")[1] for path in targets}, key=int)
    # a list of names would take in every `norm` that is an identity, which PEFT cannot copy
    return LNTuningConfig(target_modules=rf"norm|blocks\.({'|'.join(blocks)})\.norm[12]")


CONFIGS: Mapping[str, Configure] = MappingProxyType(
    {
        "lora": lambda t, r: LoraConfig(r=r, lora_alpha=2 * r, target_modules=t),
        "lora, rank-stabilised": lambda t, r: LoraConfig(r=r, lora_alpha=6, target_modules=t, use_rslora=True),
        "lora, one rank each": lambda t, r: LoraConfig(
            r=r, rank_pattern={"fc1": r + 3}, alpha_pattern={"qkv": 5}, target_modules=t
        ),
        "lora, biases of its own": lambda t, r: LoraConfig(r=r, target_modules=t, bias="lora_only"),
        "lora, both biases": lambda t, r: LoraConfig(r=r, target_modules=t, bias="lora_only", lora_bias=True),
        "dora": lambda t, r: LoraConfig(r=r, lora_alpha=2 * r, target_modules=t, use_dora=True),
        "dora, rank-stabilised, biases of its own": lambda t, r: LoraConfig(
            r=r, lora_alpha=6, target_modules=t, use_dora=True, use_rslora=True, bias="lora_only"
        ),
        "adalora": lambda t, r: AdaLoraConfig(init_r=r, lora_alpha=16, total_step=10, target_modules=t),
        "vera": lambda t, r: VeraConfig(r=r, target_modules=t),
        "pvera": lambda t, r: PveraConfig(r=r, target_modules=t),
        "delora": lambda t, r: DeloraConfig(r=r, target_modules=t, rank_pattern={"fc2": r + 1}),
        "gralora": lambda t, r: GraloraConfig(r=2 * min(r, 3), gralora_k=2, alpha=4 * r, target_modules=t),
        "gralora, hybrid": lambda t, r: GraloraConfig(
            r=3 * min(r, 2), gralora_k=3, hybrid_r=min(r, 2), target_modules=t
        ),
        "vblora": lambda t, r: VBLoRAConfig(r=r, num_vectors=20, vector_length=16, topk=3, target_modules=t),
        "vblora, the best alone": lambda t, r: VBLoRAConfig(
            r=r, num_vectors=300, vector_length=8, target_modules=t, save_only_topk_weights=True
        ),
        "unilora": lambda t, r: UniLoraConfig(r=r, theta_d_length=50, target_modules=t, save_indices=True),
        "tinylora": lambda t, r: TinyLoraConfig(r=r, u=5, target_modules=t),
        "tinylora, tied": lambda t, r: TinyLoraConfig(r=r, u=5, target_modules=t, weight_tying=0.6),
        "loha": lambda t, r: LoHaConfig(r=min(r, 4), alpha=3, target_modules=t),
        "lokr": lambda t, r: LoKrConfig(r=min(r, 2), alpha=3, target_modules=t),
        "lokr, both parted": lambda t, r: LoKrConfig(r=min(r, 2), target_modules=t, decompose_both=True),
        "lokr, by 4": lambda t, r: LoKrConfig(r=min(r, 3), target_modules=t, decompose_factor=4),
        "hra": lambda t, r: HRAConfig(r=r + r % 2, target_modules=t),
        "hra, orthogonal": lambda t, r: HRAConfig(r=r + r % 2, target_modules=t, apply_GS=True),
        "miss": lambda t, r: MissConfig(r=r, target_modules=t),
        "miss, mini": lambda t, r: MissConfig(r=r, mini_r=12, init_weights="mini", target_modules=t),
        "deft": lambda t, r: DeftConfig(r=r, target_modules=t),
        "deft, orthonormal": lambda t, r: DeftConfig(r=r, alpha=2 * r, decomposition_method="qr", target_modules=t),
        "deft, removal alone": lambda t, r: DeftConfig(r=r, para=True, target_modules=t),
        "peanut": lambda t, r: PeanutConfig(r=r, target_modules=t, scaling=2.0),
        "peanut, deeper": lambda t, r: PeanutConfig(r=r, depth=2, act_fn="gelu", target_modules=t),
        "ia3": lambda t, _: _ia3(t, ["fc2", "proj"]),
        "ia3, outputs alone": lambda t, _: _ia3(t, []),
        "beft": lambda t, _: BeftConfig(target_modules=t),
        "ln": lambda t, _: _norms(t),
        "glora": lambda t, r: GloraConfig(r=r, target_modules=t, config_A_B="vector"),
        "glora, constants": lambda t, _: GloraConfig(
            target_modules=t, config_A_B="constant", config_C="none", config_D_E="vector"
        ),
        "glora, weights alone": lambda t, _: GloraConfig(
            target_modules=t, config_A_B="vector", config_C="vector", config_D_E="none"
        ),
        "oft": lambda t, _: OFTConfig(oft_block_size=8, target_modules=t),
        "oft, shared": lambda t, _: OFTConfig(
            r=6, oft_block_size=0, block_share=True, use_cayley_neumann=False, target_modules=t
        ),
        "oft, few terms": lambda t, _: OFTConfig(oft_block_size=4, num_cayley_neumann_terms=3, target_modules=t),
        "boft": lambda t, _: BOFTConfig(boft_block_size=4, target_modules=t),
        "road": lambda t, _: RoadConfig(group_size=16, target_modules=t),
        "road, an angle each": lambda t, _: RoadConfig(group_size=8, variant="road_2", target_modules=t),
        "road, four numbers": lambda t, _: RoadConfig(group_size=16, variant="road_4", target_modules=t),
    }
)
"""By a name that starts with the method's."""
