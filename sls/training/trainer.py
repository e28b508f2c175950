"""The optimizer's side of tuning: epochs over the images, and all that an epoch leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sls.adapters.model import Adapted
from sls.training.frozen_prefix import Source
from sls.training.recipe import SCHEDULES, TrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Best:
    """The first epoch of the highest validation accuracy, and its float32 weights."""

    epoch: int
    accuracy: float
    weights: tuple[Tensor, ...]


@dataclass(frozen=True)
class State:
    """All that training goes on from after an epoch: tensors, and what JSON holds."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def trained(model: Adapted) -> list[Tensor]:
    """Return the parameters that require a gradient, the adapter's and the head's."""
    return [p for p in (*model.vit.parameters(), *model.head.parameters()) if p.requires_grad]


def round_off(model: Adapted) -> list[Tensor]:
    """Put the vit into bfloat16, and return float32 copies of what is to be trained as it was before."""
    weights = [parameter.detach().float().clone() for parameter in trained(model)]
    model.vit.to(torch.bfloat16)
    return weights


class Trainer:
    """Train what requires a gradient in a model that has been rounded off; `epoch` counts those that are done."""

    def __init__(self, model: Adapted, weights: list[Tensor], source: Source, recipe: TrainingConfig) -> None:
        self.model, self.source, self.recipe = model, source, recipe
        self.labels = torch.from_numpy(source.split.labels)
        self.batches = math.ceil(len(source.split) / recipe.batch)
        self.order = np.random.default_rng(recipe.seed)
        self.parameters = trained(model)
        # bfloat16 would swallow the small updates, so the optimizer works on float32 copies
        self.masters = [weight.requires_grad_() for weight in weights]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )
        self.epoch, self.best = 0, Best(0, -1.0, ())

    @property
    def done(self) -> bool:
        """Whether all epochs are through, or as many as patience allows have not helped."""
        waited = self.epoch - self.best.epoch
        return self.epoch >= self.recipe.epochs or 0 < self.recipe.patience <= waited

    def run_epoch(self) -> float:
        """Go through the images once and return the mean loss."""
        self.model.vit.train()
        losses = []
        for turn, rows in enumerate(np.array_split(self.order.permutation(len(self.labels)), self.batches)):
            logits = self.model.head(self.source.features(rows).float())
            loss = functional.cross_entropy(logits, self.labels[torch.from_numpy(rows)])
            torch.autograd.backward(loss)
            self._step(self.epoch * self.batches + turn)
            losses.append(loss.item())
        self.epoch += 1
        return float(np.mean(losses))

    @torch.no_grad()
    def _step(self, step: int) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        share = SCHEDULES[self.recipe.schedule](step, self.recipe.epochs * self.batches)
        self.optimizer.param_groups[0]["lr"] = self.recipe.learning_rate * share
        self.optimizer.step()
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.copy_(master)

    def judge(self, accuracy: float | None) -> None:
        """Keep the weights where there is patience and they are the best so far."""
        if self.recipe.patience and accuracy is not None and accuracy > self.best.accuracy:
            self.best = Best(self.epoch, accuracy, tuple(master.detach().clone() for master in self.masters))

    def finish(self) -> None:
        """Leave the model with the float32 weights: the best epoch's where there is patience, else the last one's."""
        for parameter, weight in zip(self.parameters, self.best.weights or self.masters, strict=True):
            parameter.data = weight.detach()

    def state(self) -> State:
        """Give all that `restore` needs, the random numbers of dropout and of the order among it."""
        tensors = {"random": torch.random.get_rng_state()}
        for index, master in enumerate(self.masters):
            moments = self.optimizer.state[master]
            tensors |= {f"weights/{index}": master.detach()} | {f"{m}/{index}": moments[m] for m in MOMENTS}
        tensors |= {f"best/{index}": weight for index, weight in enumerate(self.best.weights)}
        best = {"epoch": self.best.epoch, "accuracy": self.best.accuracy}
        return State(tensors, {"epoch": self.epoch, "order": self.order.bit_generator.state, "best": best})

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go on from a state of the same recipe, data and start."""
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
        self.best = Best(**facts["best"], weights=weights)
