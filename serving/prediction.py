"""The answer for one image from one version: the same object in process and from a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from store.errors import InvalidSettingError


class LabelScore(NamedTuple):
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True)
class Prediction(ABC):
    """What one image got from one version of a task, run to this depth.

    `degraded` says that a shallower version answered under overload, as the alias's split names one for it.
    """

    task: str
    version: int
    depth: int
    degraded: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def logits(self) -> tuple[float, ...]:
        """The logits of all classes in the order of the task's labels, float32."""

    @abstractmethod
    def _best(self, k: int) -> Iterable[tuple[str, float]]:
        """Return the k most probable labels and their probabilities, best first."""

    def top(self, k: int = 5) -> tuple[LabelScore, ...]:
        """Return the k most probable labels, best first; fewer if the task has, or the server sent, fewer."""
        return tuple(LabelScore(label, score) for label, score in self._best(k))

    def to_dict(self, *, top: int = 5, logits: bool = False) -> dict[str, object]:
        """Return the object that the HTTP API answers as JSON."""
        best = [{"label": label, "score": score} for label, score in self._best(top)]
        answer: dict[str, object] = {"task": self.task, "version": self.version, "depth": self.depth, "top": best}
        if self.degraded:
            answer["degraded"] = True
        return {**answer, "logits": list(self.logits)} if logits else answer


@dataclass(frozen=True)
class ReceivedPrediction(Prediction):
    """A prediction as a server sent it: the labels and logits that the request asked for, and no others."""

    best: tuple[LabelScore, ...]
    all_logits: tuple[float, ...] | None

    @classmethod
    def from_dict(cls, answer: Mapping[str, object]) -> ReceivedPrediction:
        """Read the object that `to_dict` returns."""
        best = cast(list[Mapping[str, object]], answer["top"])
        logits = cast(list[float] | None, answer.get("logits"))
        return cls(
            cast(str, answer["task"]),
            cast(int, answer["version"]),
            cast(int, answer["depth"]),
            tuple(LabelScore(cast(str, entry["label"]), cast(float, entry["score"])) for entry in best),
            None if logits is None else tuple(logits),
            degraded=bool(answer.get("degraded", False)),
        )

    @property
    def logits(self) -> tuple[float, ...]:
        if self.all_logits is None:
            raise InvalidSettingError(f"the server sent no logits for {self.task!r}: request them with `logits=True`")
        return self.all_logits

    def _best(self, k: int) -> Iterable[tuple[str, float]]:
        return self.best[:k]
