"""Successive halving (Jamieson and Talwalkar 2016): many settings for few epochs, the better third of them for more.

It is ours: Ray Tune, which has ASHA, loads pandas and pyarrow and would keep checkpoints of its own beside those from
which `fit` resumes. What is left of it here is this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ETA = 3


@dataclass(frozen=True)
class Rung:
    """Settings that are tried up to the same epoch, of which so many go on."""

    epochs: int
    keep: int


def rungs(choices: int, epochs: int, *, prune: bool) -> Sequence[Rung]:
    """Return the rungs for so many settings: without pruning one, of all epochs, after which one setting is left.

    With pruning, each rung keeps a third and runs three times as many epochs as the one before it; of rungs with as
    many epochs the last one stands for all.
    """
    if choices == 1:
        return ()
    if not prune:
        return (Rung(epochs, 1),)
    keeps = []
    while choices > 1:
        choices = -(-choices // ETA)
        keeps.append(choices)
    count = len(keeps)
    found = [Rung(max(1, round(epochs / ETA ** (count - rung))), keep) for rung, keep in enumerate(keeps)]
    return tuple(rung for rung, after in zip(found, [*found[1:], None], strict=True) if rung.epochs != epochs_of(after))


def epochs_of(rung: Rung | None) -> int | None:
    return None if rung is None else rung.epochs


@dataclass
class Halving:
    """The search of one task: what is being tried, and what the trials of the present rung have reached."""

    rungs: Sequence[Rung]
    alive: list[str]
    rung: int = 0
    reached: dict[str, float | None] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        return self.rungs[self.rung].epochs

    @property
    def done(self) -> bool:
        """Whether one setting is left, with which the task is tuned."""
        return self.rung == len(self.rungs)

    def record(self, choice: str, accuracy: float | None) -> bool:
        """Note what a trial reached, None where it failed; return whether its rung is over.

        Failed ones do not go on, and of equal ones the first does; where all have failed, none is alive.
        """
        self.reached[choice] = accuracy
        if len(self.reached) < len(self.alive):
            return False
        found = {name: reached for name in self.alive if (reached := self.reached[name]) is not None}
        order = sorted(found, key=lambda name: -found[name])  # stable: ties stay in the order of the plan
        best = set(order[: self.rungs[self.rung].keep])
        self.alive = [name for name in self.alive if name in best]
        self.reached.clear()
        self.rung += 1
        return True


def begin(choices: Mapping[str, object], epochs: int, *, prune: bool) -> Halving:
    names = list(choices) or [""]
    return Halving(rungs(len(names), epochs, prune=prune), names)
