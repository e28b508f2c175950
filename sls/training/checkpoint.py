"""A training checkpoint: one safetensors file with JSON in its metadata, replaced atomically after each epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
from safetensors.torch import load, save
from torch import Tensor

from sls.adapters.model import TunedModel
from sls.data.dataset import Dataset, Split
from sls.training.recipe import TrainingConfig
from sls.training.trainer import TrainingState
from store.backends.atomic_write import replace_file
from store.errors import ConflictError, FormatError
from store.weights.backbones import Backbone

META = "onetrunk"


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The file of a run's state, and `run`, the digests that identify the run."""

    path: Path
    run: Mapping[str, str]

    def read(self) -> TrainingState | None:
        """Return the state after the last finished epoch, or None before the first.

        Raises `ConflictError` for the checkpoint of another run, `FormatError` for a file that is not a checkpoint.
        """
        try:
            data = self.path.read_bytes()
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][META])
            run = facts.pop("run")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise FormatError(
                f"{self.path} is not a valid training checkpoint ({type(error).__name__}): remove it to start again"
            ) from None
        differing = [key for key in self.run if run.get(key) != self.run[key]]
        if differing:
            raise ConflictError(
                f"{self.path} is the checkpoint of a run with another {differing[0]}: remove it or give another path"
            )
        return TrainingState(tensors, facts)

    def write(self, state: TrainingState) -> None:
        """Replace the file atomically and durably."""
        meta = {META: json.dumps({**state.facts, "run": self.run})}
        data: bytes = save({key: value.contiguous() for key, value in state.tensors.items()}, metadata=meta)
        replace_file(self.path, data)


def run_of(dataset: Dataset, backbone: Backbone, start: TunedModel, config: TrainingConfig) -> dict[str, str]:
    """Digest all that a run's result depends on, the order of the images too, to tell it from other runs."""
    tensors = {**start.adapter, "weight": start.weight, "bias": start.bias}
    shape = [start.depth, start.rank, start.method, start.from_block]
    return {
        "recipe": json.dumps(asdict(config), sort_keys=True),
        "backbone": backbone.record.id.fingerprint,
        "start": _digest(repr(shape), *(f"{key} {_sha256(tensors[key])}" for key in sorted(tensors))),
        "data": _digest(*map(_rows, (dataset.train, dataset.validation))),
    }


def _rows(split: Split) -> str:
    return repr((split.digests, split.labels.tolist()))


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
