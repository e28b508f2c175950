"""What a fit has left in its folder: a finished task with these inputs, or steps of one that was interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from sls.data.dataset import Dataset
from sls.pipeline.config import FitConfig
from sls.pipeline.stages import FOLDER
from store.adapters.checkpoint import CARD
from store.errors import FormatError
from store.records.manifest import Card
from store.weights.backbones import Backbone


def read_finished(out: Path, dataset: Dataset, backbone: Backbone, config: FitConfig) -> Card | None:
    """Return the card of the finished fit with these inputs; None where it is to be tuned."""
    try:
        card = Card.from_json((out / "cut" / CARD).read_bytes())
    except (OSError, FormatError):
        return None
    if (out / FOLDER).exists() or card.certificate is None or card.lineage is None:
        return None
    same = json.dumps(card.lineage.recipe, sort_keys=True) == json.dumps(asdict(config.effective), sort_keys=True)
    known = same and card.lineage.data_digest == dataset.digest and card.backbone == backbone.record.id.fingerprint
    return card if known else None


def full_folder(out: Path) -> Path | None:
    """Return the folder of the model tuned at full depth, if the finished fit has one."""
    return out / "full" if (out / "full" / CARD).is_file() else None


def clear_unfinished(out: Path) -> None:
    """Remove the steps of an interrupted fit."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
