"""How a fit goes, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sls.choose_depth import ScoreConfig
from sls.pipeline.retune import MODES
from sls.progress import Progress
from sls.training.recipe import TrainingConfig, check_choice, check_real
from sls.width.search import WidthConfig
from store.errors import InvalidSettingError
from store.records.evidence import Accuracy, Certificate, PruneIndex

WHEN = ("after", "before")


@dataclass(frozen=True)
class FitConfig:
    """How a task is tuned, scored, cut and retuned.

    `when`: "after" tunes at full depth, scores, cuts and retunes, in the paper's order. "before" scores the frozen
    backbone and tunes once, at the chosen depth: `retune` and `retune_mode` are not used.

    `max_drop` is the greatest loss, in points of validation accuracy below the model tuned at full depth; the cut is
    raised until it loses no more. With "before" a full-depth model is then tuned as the reference, which costs the
    training that "before" would save.

    `retune` trains with the method, the rank, the scale and the first adapted block of `tune`.

    With `width`, heads and units of the blocks are pruned to its budget, which `max_drop` raises; the depth stays, or
    is chosen together with it. `score` is not used then.
    """

    tune: TrainingConfig = field(default_factory=TrainingConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    retune: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=5))
    when: str = "after"
    retune_mode: str = "rewind"
    max_drop: float | None = None
    width: WidthConfig | None = None

    def __post_init__(self) -> None:
        check_choice("when", self.when, WHEN)
        if self.width is not None and self.when == "before":
            raise InvalidSettingError("a width is chosen from a tuned model: leave out when='before'")
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
        if self.when == "before":
            return {"tune": self.tune} | ({} if self.max_drop is None else {"reference": self.tune})
        retunes = self.retune_mode not in ("head", "none")
        return {"tune": self.tune} | ({"retune": self.retune} if retunes else {})

    @property
    def effective(self) -> FitConfig:
        """The config that the run follows and the lineage records."""
        tune, mode = self.tune, "none" if self.when == "before" else self.retune_mode
        retune = replace(self.retune, method=tune.method, rank=tune.rank, from_block=tune.from_block, scale=tune.scale)
        return replace(self, retune=retune, retune_mode=mode)


@dataclass(frozen=True)
class FitResult:
    """The prune index, the certificate, and the folders: `full` with all blocks, `cut` at the chosen depth.

    `accuracies[i]` is the test accuracy of the model tuned at full depth when it is cut to depth i + 1. With `when`
    "before" and no `max_drop` no model is tuned at full depth: `full` is None, and unless all blocks are kept,
    `certificate.full` is None and `accuracies` is empty, as the cost of the cut is unknown. `seconds` and `curve` do
    not include the steps of an earlier run that was interrupted.
    """

    index: PruneIndex
    certificate: Certificate
    full: Path | None
    cut: Path
    accuracies: tuple[Accuracy, ...]
    curve: tuple[Progress, ...]
    seconds: Mapping[str, float]
