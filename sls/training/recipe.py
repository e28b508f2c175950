"""The configuration of a training run, and its learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sls.adapters.methods import METHODS
from sls.training.augmentation import NONE, parse_policy
from store.errors import InvalidSettingError
from store.records.bounds import check_number

MAX_SEED = 2**32 - 1  # that scikit-learn takes


def rate_at(step: int, steps: int, warmup: float = 0.1) -> float:
    """Share of the learning rate at a step: (step + 1) / w for w = warmup * steps, then (1 + cos(pi t)) / 2."""
    warm = max(1, int(steps * warmup))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


SCHEDULES: Mapping[str, Callable[[int, int, float], float]] = MappingProxyType(
    {"cosine": rate_at, "constant": lambda _step, _steps, _warmup: 1.0}
)
"""Name -> function of (step, steps, warmup), with step from 0, that returns the share of the learning rate."""
CLASS_WEIGHTS = ("none", "balanced")
RATES: Mapping[str, float] = MappingProxyType(
    {
        "lora": 3e-3,
        "rslora": 3e-3,
        "dora": 3e-3,
        "ia3": 3e-2,
        "vera": 1e-1,
        "ln": 1e-2,
        "repadapter": 3e-3,
        "convpass": 1e-2,
        "adaptformer": 1e-2,
        "houlsby": 1e-2,
        "adapter+": 3e-3,
        "ssf": 1e-2,
        "bitfit": 1e-2,
    }
)
"""Method -> its learning rate where none is given, as `benchmarks/sls/rates.py` found it."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    if value not in list(choices):
        raise InvalidSettingError(f"{name} {value!r} is unknown: choose one of {', '.join(choices)}")


def check_real(name: str, value: object) -> None:
    if type(value) not in (int, float):
        raise InvalidSettingError(f"{name} {value!r} is not a number: give one, such as 0.5")


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW over batches in an order drawn from the seed; `method`, `from_block` and `scale` apply to fresh adapters.

    `learning_rate` is the highest; None stands for that of the method in `RATES`.

    The schedule "cosine" is a linear warm-up over the first `warmup` of the steps, a tenth by default, then a half
    cosine to zero; "constant" is flat. Blocks below `from_block` are not adapted, and their output is computed once
    for each image. With `patience`, training stops after that many epochs without a better validation accuracy, and
    keeps the best epoch's weights. `scale` is the factor s of RepAdapter and Convpass, the initial one of Adapter+,
    and ten times that of AdaptFormer.

    `augment` changes training images: "none", "light", or a policy of timm. `mixup` is the alpha of mixup (Zhang et
    al. 2018), 0 for none. With either, every block runs for each image in each epoch. `label_smoothing` is the share
    of the target that all classes have; `class_weights` "balanced" weights each class by the inverse of its images.
    """

    epochs: int = 8
    learning_rate: float | None = None
    batch: int = 8
    weight_decay: float = 1e-4
    rank: int = 8
    seed: int = 0
    method: str = "lora"
    from_block: int = 1
    patience: int = 0
    schedule: str = "cosine"
    scale: float = 1.0
    warmup: float = 0.1
    augment: str = NONE
    label_smoothing: float = 0.0
    class_weights: str = "none"
    mixup: float = 0.0

    @property
    def rate(self) -> float:
        """The highest learning rate: the one given, or else the method's own."""
        return RATES[self.method] if self.learning_rate is None else self.learning_rate

    @property
    def varies(self) -> bool:
        """Whether an image differs from epoch to epoch, so that the output of frozen blocks cannot be kept."""
        return self.augment != NONE or self.mixup > 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rank", "from_block"):
            check_number(name, getattr(self, name), least=1)
        check_number("patience", self.patience)
        check_number("seed", self.seed, most=MAX_SEED)
        for name in ("weight_decay", "scale", "warmup", "label_smoothing", "mixup"):
            check_real(name, getattr(self, name))
        if self.learning_rate is not None:
            check_real("learning_rate", self.learning_rate)
        check_choice("method", self.method, METHODS)
        if not 0 < self.rate < 1 or not 0 <= self.weight_decay < 1:
            raise InvalidSettingError(
                f"learning_rate {self.rate}, weight_decay {self.weight_decay}: give a rate above 0 and below "
                "1, a decay of at least 0 and below 1"
            )
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("class_weights", self.class_weights, CLASS_WEIGHTS)
        if not isinstance(self.augment, str):
            raise InvalidSettingError(f"augment {self.augment!r} is not a text: give the name of a policy")
        parse_policy(self.augment)
        if not (0 <= self.warmup < 1 and 0 <= self.label_smoothing < 1 and 0 <= self.mixup < math.inf):
            raise InvalidSettingError(
                f"warmup {self.warmup}, label_smoothing {self.label_smoothing}, mixup {self.mixup}: give shares of at "
                "least 0 and below 1, and an alpha of at least 0"
            )
        if not 0 < self.scale < math.inf:
            raise InvalidSettingError(f"scale {self.scale}: give a number above 0")
