"""How a task is tuned, scored, cut and tuned again, and in which dtype it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sls.adapters.task_folder import DTYPES
from sls.choose_depth import ScoreConfig
from sls.pipeline.retune import MODES
from sls.training.recipe import TrainingConfig, check_choice, check_real
from sls.width.search import WidthConfig
from store.adapters.widths import NO_CONVOLUTION
from store.errors import InvalidSettingError

WHEN = ("after", "before", "early")


@dataclass(frozen=True)
class FitConfig:
    """How a task is tuned, scored, cut and retuned.

    `when`: "after" tunes at full depth, scores, cuts and retunes, in the paper's order. "before" scores the frozen
    backbone and tunes once, at the chosen depth: `retune` and `retune_mode` are not used. "early" tunes at full depth
    for one epoch, scores, cuts, and goes on at that depth for as many epochs as "after" has in all: `retune` says
    only how many of these there are.

    `max_drop` is the greatest loss, in points of validation accuracy below the model tuned at full depth; the cut is
    raised until it loses no more. With "before" and "early" a full-depth model is then tuned as the reference, which
    costs the training that these would save.

    `retune` trains with the method, the rank, the scale and the first adapted block of `tune`. Adapter and head are
    stored in `save_dtype`; in one of 16 bits, the certificate says what the rounding costs.

    With `width`, heads and units of the blocks are pruned to its budget, and patches to its share, which `max_drop`
    raises; the depth stays, or is chosen together with them. `score` is not used then.
    """

    tune: TrainingConfig = field(default_factory=TrainingConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    retune: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=5))
    when: str = "after"
    retune_mode: str = "rewind"
    max_drop: float | None = None
    save_dtype: str = "float16"
    width: WidthConfig | None = None

    def __post_init__(self) -> None:
        check_choice("when", self.when, WHEN)
        if self.width is not None and self.when != "after":
            raise InvalidSettingError(f"a width is chosen from a tuned model: leave out when={self.when!r}")
        if self.width is not None and self.width.tokens is not None and self.tune.method == "convpass":
            raise InvalidSettingError(NO_CONVOLUTION)
        check_choice("save_dtype", self.save_dtype, DTYPES)
        check_choice("retune_mode", self.retune_mode, MODES)
        if self.max_drop is not None:
            check_real("max_drop", self.max_drop)
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InvalidSettingError(f"max_drop {self.max_drop}: give points of accuracy, 0..100")

    @property
    def measures_drop(self) -> bool:
        """Whether the certificate will say what the cut costs."""
        return self.when == "after" or self.max_drop is not None

    @property
    def trainings(self) -> Mapping[str, TrainingConfig]:
        """The trainings by the names of their stages; that of `max_drop` may go through several depths."""
        reference = {} if self.max_drop is None else {"reference": self.tune}
        if self.when == "before":
            return {"tune": self.tune} | reference
        if self.when == "early":
            return {"begin": self.first, "tune": self.rest} | reference
        retunes = self.retune_mode not in ("head", "none")
        return {"tune": self.tune} | ({"retune": self.retune} if retunes else {})

    @property
    def first(self) -> TrainingConfig:
        """The epoch of "early" at full depth."""
        return replace(self.tune, epochs=1, patience=0)

    @property
    def rest(self) -> TrainingConfig:
        """The epochs of "early" at the chosen depth."""
        return replace(self.tune, epochs=self.tune.epochs + self.retune.epochs - 1)

    @property
    def effective(self) -> FitConfig:
        """The config that the run follows and the lineage records."""
        tune, mode = self.tune, self.retune_mode if self.when == "after" else "none"
        retune = replace(self.retune, method=tune.method, rank=tune.rank, from_block=tune.from_block, scale=tune.scale)
        tune, retune = (replace(config, learning_rate=config.rate) for config in (tune, retune))
        return replace(self, tune=tune, retune=retune, retune_mode=mode)
