"""The packed backbone as a file that the engines of a machine share; for now in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from serving.kernel.backbone import PackedBackbone, pack_backbone
from serving.kernel.library import load_library
from serving.kernel.support import Coverage
from store.weights.backbones import Backbone


def open_packed(backbone: Backbone, library: Path, covered: Coverage) -> PackedBackbone:
    return pack_backbone(load_library(library), backbone.build(dtype=torch.bfloat16), covered)
