"""A task of many to tune, and what came of it; as JSON too, in which they go to the processes that tune."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from sls.pipeline.config import FitConfig
from store.records.backbone import DEFAULT_BACKBONE
from store.records.decoding import decode
from store.registry.store import Version

PUBLISHED, TUNED, FAILED = "published", "tuned", "failed"


@dataclass(frozen=True)
class FitJob:
    """One task: its data, as `load_dataset` takes them, and its settings.

    `choices` names other settings to try: the one of the best validation accuracy is taken, and `config` is not used.
    `place` says where the job was written, such as "row 3".
    """

    task: str
    data: str
    config: FitConfig = field(default_factory=FitConfig)
    backbone: str = DEFAULT_BACKBONE
    aliases: tuple[str, ...] = ()
    parent: str | None = None
    limit: int | None = None
    seed: int = 0
    data_root: str | None = None
    allow_duplicates: bool = False
    choices: Mapping[str, FitConfig] = field(default_factory=dict)
    place: str = ""

    @property
    def folder_name(self) -> str:
        """The name of the task's folder within that of the run."""
        return quote(self.task, safe="")

    @property
    def title(self) -> str:
        return f"{self.place} ({self.task})" if self.place else self.task

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: object) -> FitJob:
        return decode(cls, json.dumps(value).encode(), "job", newest=0)


@dataclass(frozen=True)
class Checked:
    """Nothing is wrong with a job: how many images it trains on, and what there is to know of its data."""

    images: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FitOutcome:
    """What came of a job. `folder` is the tuned folder, to be published; `full` the one of all blocks, if there is one.

    `resumed` says that an earlier run had finished it. `choice` is the name of the settings that were taken.
    """

    task: str
    state: str
    seconds: float
    problem: str | None = None
    resumed: bool = False
    folder: Path | None = None
    full: Path | None = None
    depth: int | None = None
    blocks: int | None = None
    accuracy: float | None = None
    accuracy_full: float | None = None
    choice: str | None = None
    version: Version | None = None

    def to_dict(self) -> dict[str, object]:
        """Return what `fit-many` prints of it."""
        return {
            "task": self.task,
            "state": self.state,
            "version": self.version and self.version.number,
            "depth": self.depth,
            "blocks": self.blocks,
            "accuracy": self.accuracy,
            "accuracy_full": self.accuracy_full,
            "seconds": round(self.seconds, 1),
            "resumed": self.resumed,
            "settings": self.choice,
            "folder": self.folder and str(self.folder),
            "problem": self.problem,
        }
