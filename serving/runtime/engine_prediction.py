"""A prediction of the engine in this process."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from serving.prediction import LabelScore, Prediction


@dataclass(frozen=True)
class EnginePrediction(Prediction):
    """A prediction that computes what it is asked for from the logits tensor (classes,), float32, on the CPU."""

    labels: tuple[str, ...]
    tensor: Tensor

    @property
    def logits(self) -> tuple[float, ...]:
        return tuple(self.tensor.tolist())

    def top(self, k: int = 5) -> tuple[LabelScore, ...]:
        scores, indices = self.tensor.softmax(dim=0).topk(min(k, len(self.labels)))
        pairs = zip(indices.tolist(), scores.tolist(), strict=True)
        return tuple(LabelScore(self.labels[index], score) for index, score in pairs)
