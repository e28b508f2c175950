"""PEFT's methods, each with its options and its tensors; and why the others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from store.adapters.methods import low_rank, products, scales, turns
from store.adapters.methods.spec import Method, TensorSpec

# what the adapter is and where it came from, and which modules it adapts
ANY = frozenset({"peft_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping", "task_type"}) | {
    *("inference_mode", "target_modules", "fan_in_fan_out")  # PEFT turns the last off on a linear map
}
INIT = frozenset({"init_weights"})
LAYERS = frozenset({"layers_to_transform", "layers_pattern"})
EXCEPT = frozenset({"exclude_modules"})
NO_BIAS = {"bias": ("none",)}
IN_THE_FILE = {"save_projection": "set save_projection=True and save it again, so that its matrices are in the file"}
TRUE = (True,)


def _free(*options: str) -> frozenset[str]:
    """Return the options of any value for a method that can select blocks and exclude modules."""
    return ANY | LAYERS | EXCEPT | set(options)


LORA = Method(
    name="lora",
    # the last two have no effect while the option that each belongs to is off
    free=_free("r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout")
    | {"megatron_core", "qalora_group_size", "eva_config"},
    limited={
        "bias": ("none", "lora_only"),
        "lora_bias": (True, False),
        "use_dora": (True, False),
        # The others change the base weights as well, which are not here to be changed.
        "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    },
    ranks=TensorSpec(
        "LoRA", r"lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector|base_layer\.bias", low_rank.lora
    ),
    remedies={
        "bias": "tune with bias 'none' or 'lora_only', for 'all' also trains what every task shares",
        "init_lora_weights": "it changes the base weights too, so save the adapter with "
        "path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
    },
    variant=lambda config: "dora" if config.get("use_dora") else "lora",
)
ADALORA = Method(
    name="adalora",
    free=_free("r", "init_r", "target_r", "rank_pattern", "lora_alpha", "lora_dropout", "tinit", "tfinal", "deltaT")
    | {"beta1", "beta2", "orth_reg_weight", "total_step", "megatron_core", "qalora_group_size"},
    limited={**NO_BIAS, "init_lora_weights": (True, False, None)},
    ranks=TensorSpec("AdaLoRA", "lora_[ABE]", low_rank.adalora),
)
VERA = Method(
    name="vera",
    free=ANY | LAYERS | INIT | {"r", "projection_prng_key", "vera_dropout", "d_initial"},
    limited={**NO_BIAS, "save_projection": TRUE},
    ranks=TensorSpec("VeRA", "vera_lambda_[bd]", low_rank.vera, low_rank.vera_shared),
    remedies=IN_THE_FILE,
)
PVERA = Method(
    name="pvera",
    free=ANY | LAYERS | INIT | {"r", "projection_prng_key", "pvera_dropout", "d_initial", "generator_seed"},
    limited={**NO_BIAS, "save_projection": TRUE},
    ranks=TensorSpec("PVeRA", "pvera_lambda_[bd]", low_rank.pvera, low_rank.pvera_shared),
    remedies={**IN_THE_FILE, "sample_at_inference": "set it to false: an answer that is drawn cannot be exact"},
)
DELORA = Method(
    name="delora",
    free=_free("init_weights", "r", "rank_pattern", "delora_lambda", "lambda_pattern", "module_dropout"),
    limited=NO_BIAS,
    ranks=TensorSpec("DeLoRA", "delora_(?:A|B|lambda|w_norm)", low_rank.delora),
)
GRALORA = Method(
    name="gralora",
    free=ANY | LAYERS | INIT | {"r", "hybrid_r", "alpha", "gralora_dropout", "gralora_k"},
    limited=NO_BIAS,
    ranks=TensorSpec("GraLoRA", r"gralora_[AB](?:_general\.weight)?", low_rank.gralora),
)
VBLORA = Method(
    name="vblora",
    free=_free("r", "num_vectors", "vector_length", "topk", "save_only_topk_weights", "vblora_dropout")
    | {"init_vector_bank_bound", "init_logits_std"},
    limited=NO_BIAS,
    ranks=TensorSpec(
        "VB-LoRA",
        "vblora_logits_[AB](?:_topk_indices|_topk_weights)?",
        low_rank.vblora,
        low_rank.vblora_shared,
        integers=frozenset(f"vblora_logits_{side}_topk_indices" for side in "AB"),
    ),
)
UNILORA = Method(
    name="unilora",
    free=ANY
    | LAYERS
    | INIT
    | {"r", "theta_d_length", "proj_seed", "save_indices", "unilora_dropout", "init_theta_d_bound"},
    limited=NO_BIAS,
    ranks=TensorSpec(
        "Uni-LoRA",
        "unilora_(?:indices|scales)_[AB]",
        low_rank.unilora,
        low_rank.unilora_shared,
        integers=frozenset({"unilora_indices_A", "unilora_indices_B"}),
    ),
)
TINYLORA = Method(
    name="tinylora",
    free=ANY | LAYERS | INIT | {"r", "u", "weight_tying", "projection_seed", "init_v_bound", "tinylora_dropout"},
    limited={**NO_BIAS, "save_projection": TRUE},
    ranks=TensorSpec("TinyLoRA", "tinylora_[ABP]", low_rank.tinylora, low_rank.tinylora_shared),
    remedies=IN_THE_FILE,
)
DROPOUTS = ("rank_dropout", "module_dropout", "use_effective_conv2d")
LOHA = Method(
    name="loha",
    free=_free("init_weights", "r", "alpha", "rank_pattern", "alpha_pattern", *DROPOUTS),
    limited={},
    ranks=TensorSpec("LoHa", "hada_w[12]_[ab]", products.loha),
)
LOKR = Method(
    name="lokr",
    free=LOHA.free | {"decompose_both", "decompose_factor", "rank_dropout_scale"},
    limited={},
    ranks=TensorSpec("LoKr", "lokr_w[12](?:_[ab])?", products.lokr),
)
HRA = Method(
    name="hra",
    free=_free("init_weights", "r", "apply_GS"),
    limited=NO_BIAS,
    ranks=TensorSpec("HRA", "hra_u", products.hra),
)
MISS = Method(
    name="miss",
    free=_free("r", "mini_r", "miss_dropout"),
    limited={**NO_BIAS, "init_weights": (True, False, "mini")},
    ranks=TensorSpec("MiSS", "miss_block", products.miss),
    remedies={"init_weights": "tune with true or 'mini', for 'bat' changes W by a matrix of full rank"},
)
DEFT = Method(
    name="deft",
    free=_free("init_weights", "r", "decomposition_method", "init_scale", "alpha", "para", "deft_dropout"),
    limited=NO_BIAS,
    ranks=TensorSpec("DEFT", "deft_[PR]", products.deft),
)
PEANUT = Method(
    name="peanut",
    free=_free("init_weights", "r", "depth", "act_fn", "scaling"),
    limited={},
    ranks=TensorSpec("PEANuT", r"peanut_[AB]\.weight|peanut_(?:en|de)coders\.\d+\.weight", products.peanut),
)
IA3 = Method(
    name="ia3",
    free=ANY | EXCEPT | {"feedforward_modules", "init_ia3_weights"},
    limited={},
    ranks=TensorSpec("IA3", "ia3_l", scales.ia3),
)
BEFT = Method(name="beft", free=ANY | INIT, limited={}, ranks=TensorSpec("BEFT", "beft_bias", scales.beft))
LN_TUNING = Method(
    name="ln",
    free=ANY | EXCEPT,
    limited={},
    ranks=TensorSpec(
        "LN tuning",
        r"ln_tuning_layers\.(?:weight|bias)",
        scales.ln,
        modules=scales.norms,
        module_kind="norm in a block or the last norm",
    ),
    modules=scales.block_norms,
)
GLORA = Method(
    name="glora",
    free=ANY | INIT | {"r", "config_A_B", "config_C", "config_D_E"},
    limited=NO_BIAS,
    ranks=TensorSpec("GLoRA", r"glora_[A-E]\.(?:X|Xd|Xu|zeros)", scales.glora),
)
OFT = Method(
    name="oft",
    free=_free("init_weights", "r", "oft_block_size", "module_dropout", "eps", "block_share")
    | {"use_cayley_neumann", "num_cayley_neumann_terms"},
    limited=NO_BIAS,
    ranks=TensorSpec("OFT", r"oft_R\.weight", turns.oft),
    remedies={"coft": "set it to false once the adapter is trained: it changes the numbers again at every answer"},
)
BOFT = Method(
    name="boft",
    free=_free("init_weights", "boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout"),
    limited=NO_BIAS,
    ranks=TensorSpec("BOFT", "boft_[Rs]", turns.boft),
)
ROAD = Method(
    name="road",
    free=ANY | INIT | {"variant", "group_size"},
    limited={},
    ranks=TensorSpec("RoAd", "road_(?:theta|alpha)", turns.road),
)

PEFT: Mapping[str, Method] = MappingProxyType(
    {
        "LORA": LORA, "ADALORA": ADALORA, "VERA": VERA, "PVERA": PVERA, "DELORA": DELORA, "GRALORA": GRALORA,
        "VBLORA": VBLORA, "UNILORA": UNILORA, "TINYLORA": TINYLORA, "LOHA": LOHA, "LOKR": LOKR, "HRA": HRA,
        "MISS": MISS, "DEFT": DEFT, "PEANUT": PEANUT, "IA3": IA3, "BEFT": BEFT, "LN_TUNING": LN_TUNING, "GLORA": GLORA,
        "OFT": OFT, "BOFT": BOFT, "ROAD": ROAD,
    }
)  # fmt: skip
"""By peft_type."""

_FULL = "it changes a map by a matrix of full rank, for which the engine has no form that is smaller than the map"
_CIRCULANT = "it adds circulant matrices of full rank, for which the engine has no form"
_SPARSE = "it adds a sparse matrix of full rank, for which the engine has no form"
_SEEDED = "its file lacks the places of its numbers, which PEFT draws again from a seed at every load"
_AT_LOAD = "PEFT derives part of it again from W at every load, so that the file alone does not say what it is"
_TOKENS = "it works on the tokens or the layers of a language model"

REASONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("FROD", "HIRA", "RANDLORA", "SUPERTUNING"), _FULL),
        **dict.fromkeys(("FOURIERFT", "WAVEFT"), _SEEDED),
        "C3A": _CIRCULANT,
        "SHIRA": _SPARSE,
        **dict.fromkeys(("ADAMSS", "OSF", "PSOFT"), _AT_LOAD),
        **dict.fromkeys(("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING"), _TOKENS),
        **dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "SHADOW", "TRAINABLE_TOKENS"), _TOKENS),
        "LILY": "it weighs its experts by the mean over all rows of a batch",
        "POLY": "it needs a task number beside every image",
        "XLORA": "it mixes the adapters of other files",
    }
)
"""Why a peft_type that PEFT knows is refused."""
