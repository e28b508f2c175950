"""The training loop: epochs over the images, and the state from which training resumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sls.adapters.model import AdaptedModel
from sls.training.frozen_prefix import FeatureSource, Mix
from sls.training.recipe import SCHEDULES, TrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class BestEpoch:
    """The first epoch of the highest validation accuracy, and its float32 weights."""

    epoch: int
    accuracy: float
    weights: tuple[Tensor, ...]


@dataclass(frozen=True)
class TrainingState:
    """All that training resumes from after an epoch: tensors, and values that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def trainable(model: AdaptedModel) -> list[Tensor]:
    """Return the parameters that require a gradient: the adapter's and the head's."""
    return [p for p in (*model.vit.parameters(), *model.head.parameters()) if p.requires_grad]


def to_bfloat16(model: AdaptedModel) -> list[Tensor]:
    """Convert the vit to bfloat16, and return float32 copies of the trainable parameters before the conversion."""
    weights = [parameter.detach().float().clone() for parameter in trainable(model)]
    model.vit.to(torch.bfloat16)
    return weights


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """weight_c = n / (classes * n_c); 0 for a class without an image."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


class Trainer:
    """Train the parameters of a model after `to_bfloat16`; `epoch` counts the finished epochs.

    `penalty` is added to the loss of every batch.
    """

    def __init__(
        self,
        model: AdaptedModel,
        weights: list[Tensor],
        source: FeatureSource,
        config: TrainingConfig,
        *,
        penalty: Callable[[], Tensor] | None = None,
    ) -> None:
        self.model, self.source, self.config, self.penalty = model, source, config, penalty
        self.labels = torch.from_numpy(source.split.labels)
        balanced = config.class_weights == "balanced"
        self.weights = balanced_weights(self.labels, model.head.out_features) if balanced else None
        self.batches = math.ceil(len(source.split) / config.batch)
        self.order = np.random.default_rng(config.seed)
        self.parameters = trainable(model)
        # small updates would be lost in bfloat16, so the optimizer works on float32 copies
        self.masters = [weight.requires_grad_() for weight in weights]
        self.optimizer = torch.optim.AdamW(self.masters, lr=config.rate, weight_decay=config.weight_decay, foreach=True)
        self.epoch, self.best = 0, BestEpoch(0, -1.0, ())

    @property
    def done(self) -> bool:
        """Whether all epochs are finished, or `patience` epochs in turn brought no better accuracy."""
        stale = self.epoch - self.best.epoch
        return self.epoch >= self.config.epochs or 0 < self.config.patience <= stale

    def run_epoch(self) -> float:
        """Train on every image once and return the mean loss."""
        self.model.vit.train()
        losses = []
        for batch, rows in enumerate(np.array_split(self.order.permutation(len(self.labels)), self.batches)):
            mix = self._draw_mix(len(rows)) if self.config.mixup else None
            logits = self.model.head(self.source.features(rows, epoch=self.epoch, mix=mix).float())
            loss = self._loss(logits, self.labels[torch.from_numpy(rows)], mix)
            loss = loss if self.penalty is None else loss + self.penalty()
            torch.autograd.backward(loss)
            self._step(self.epoch * self.batches + batch)
            losses.append(loss.item())
        self.epoch += 1
        return float(np.mean(losses))

    def _draw_mix(self, count: int) -> Mix:
        return Mix(float(self.order.beta(self.config.mixup, self.config.mixup)), self.order.permutation(count))

    def _loss(self, logits: Tensor, labels: Tensor, mix: Mix | None) -> Tensor:
        def against(targets: Tensor) -> Tensor:
            return functional.cross_entropy(
                logits, targets, weight=self.weights, label_smoothing=self.config.label_smoothing
            )

        if mix is None:
            return against(labels)
        return mix.share * against(labels) + (1 - mix.share) * against(labels[torch.from_numpy(mix.partners)])

    @torch.no_grad()
    def _step(self, step: int) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        share = SCHEDULES[self.config.schedule](step, self.config.epochs * self.batches, self.config.warmup)
        self.optimizer.param_groups[0]["lr"] = self.config.rate * share
        self.optimizer.step()
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.copy_(master)

    def keep_best(self, accuracy: float | None) -> None:
        """With patience, keep a copy of the weights if their validation accuracy is the best so far."""
        if self.config.patience and accuracy is not None and accuracy > self.best.accuracy:
            self.best = BestEpoch(self.epoch, accuracy, tuple(master.detach().clone() for master in self.masters))

    def finish(self) -> None:
        """Set the model's parameters to the float32 weights: the best epoch's with patience, else the last epoch's."""
        for parameter, weight in zip(self.parameters, self.best.weights or self.masters, strict=True):
            parameter.data = weight.detach()

    def state(self) -> TrainingState:
        """Return the state for `restore`, with the random states of dropout and of the order."""
        tensors = {"random": torch.random.get_rng_state()}
        for index, master in enumerate(self.masters):
            moments = self.optimizer.state[master]
            tensors |= {f"weights/{index}": master.detach()} | {f"{m}/{index}": moments[m] for m in MOMENTS}
        tensors |= {f"best/{index}": weight for index, weight in enumerate(self.best.weights)}
        best = {"epoch": self.best.epoch, "accuracy": self.best.accuracy}
        return TrainingState(tensors, {"epoch": self.epoch, "order": self.order.bit_generator.state, "best": best})

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Resume from a state of a run with the same config, data and start."""
        facts, tensors = state.facts, state.tensors
        self.epoch = facts["epoch"]
        self.order.bit_generator.state = facts["order"]
        torch.random.set_rng_state(tensors["random"])
        steps = torch.tensor(float(self.epoch * self.batches))
        for index, master in enumerate(self.masters):
            master.copy_(tensors[f"weights/{index}"])
            moments = {moment: tensors[f"{moment}/{index}"].clone() for moment in MOMENTS}
            self.optimizer.state[master] = {"step": steps.clone(), **moments}
        self._round()
        weights = tuple(tensors[f"best/{index}"] for index in range(len(self.masters)) if f"best/{index}" in tensors)
        self.best = BestEpoch(**facts["best"], weights=weights)
