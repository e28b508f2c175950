"""A prediction of the engine in this process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from serving.prediction import Prediction


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth
class EnginePrediction(Prediction):
    """A prediction that computes what it is asked for from the logits tensor (classes,), float32, on the CPU."""

    labels: tuple[str, ...]
    tensor: Tensor

    @property
    def logits(self) -> tuple[float, ...]:
        return tuple(self.tensor.tolist())

    def _best(self, k: int) -> Iterable[tuple[str, float]]:
        scores, indices = self.tensor.softmax(dim=0).topk(min(k, len(self.labels)))
        return zip(map(self.labels.__getitem__, indices.tolist()), scores.tolist(), strict=True)
