"""The configuration of a training run, and its learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sls.adapters.methods import METHODS
from store.errors import InvalidSettingError


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate at a step: (step + 1) / w for w = steps / 10, then (1 + cos(pi t)) / 2."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


SCHEDULES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {"cosine": rate_at, "constant": lambda _step, _steps: 1.0}
)
"""Name -> function of (step, steps), with step from 0, that returns the share of the learning rate."""


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW over batches in an order drawn from the seed; `method`, `from_block` and `scale` apply to fresh adapters.

    The schedule "cosine" is a linear warm-up over the first tenth of the steps, then a half cosine to zero;
    "constant" is flat. Blocks below `from_block` are not adapted, and their output is computed once for each image.
    With `patience`, training stops after that many epochs without a better validation accuracy, and keeps the best
    epoch's weights. `scale` is the factor s of RepAdapter and Convpass, the initial one of Adapter+, and ten times
    that of AdaptFormer.
    """

    epochs: int = 8
    learning_rate: float = 3e-3
    batch: int = 8
    weight_decay: float = 1e-4
    rank: int = 8
    seed: int = 0
    method: str = "lora"
    from_block: int = 1
    patience: int = 0
    schedule: str = "cosine"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.rank) < 1 or not 0 < self.learning_rate < 1 or self.weight_decay < 0:
            raise InvalidSettingError(
                f"{self}: give epochs, batch and rank of at least 1, a learning rate within 0..1, a decay of at least 0"
            )
        if self.method not in METHODS:
            raise InvalidSettingError(f"method {self.method!r} is unknown: choose one of {', '.join(METHODS)}")
        if self.schedule not in SCHEDULES:
            raise InvalidSettingError(f"schedule {self.schedule!r} is unknown: choose one of {', '.join(SCHEDULES)}")
        if self.from_block < 1 or self.patience < 0 or not 0 < self.scale < math.inf:
            raise InvalidSettingError(
                f"from_block {self.from_block}, patience {self.patience}, scale {self.scale}: give a block of at least "
                "1, a patience of at least 0 epochs, a scale above 0"
            )
