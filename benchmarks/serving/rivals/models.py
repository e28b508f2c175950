"""What every rival serves with: stock timm and PEFT, without a line of onetrunk's.

The folder holds `backbone.json`, `backbone.safetensors` and, for each task, what PEFT saves, a head and its depth.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peft
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

DTYPE = torch.bfloat16


class PeerFiles:
    """The backbone and the tasks of a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.about: dict[str, Any] = json.loads((self.folder / "backbone.json").read_text())
        self.depths: dict[str, int] = self.about["depths"]

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "backbone.safetensors")

    def backbone(self) -> nn.Module:
        model = timm.create_model(self.about["architecture"], num_classes=0, **self.about["arguments"])
        model.load_state_dict(self._tensors)
        return model.eval().requires_grad_(False)

    def head(self, task: str) -> tuple[Tensor, Tensor]:
        tensors = load_file(self.folder / task / "head.safetensors")
        return tensors["weight"].to(DTYPE), tensors["bias"].to(DTYPE)

    def decode(self, data: bytes) -> Tensor:
        """Decode as timm's evaluation transform does for an image of the model's size or larger."""
        p = self.about["preprocessing"]
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if image.size != (p["width"], p["height"]):
            image = image.resize((p["width"], p["height"]), Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, np.float32) / 255 - np.float32(p["mean"])) / np.float32(p["std"])
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(DTYPE)


class MergedTask:
    """One task as a model of its own: cut at its depth, the LoRA merged into the weights."""

    def __init__(self, files: PeerFiles, task: str) -> None:
        vit = files.backbone()
        del vit.blocks[files.depths[task] :]
        model = peft.PeftModel.from_pretrained(vit, files.folder / task, autocast_adapter_dtype=False)
        self._model = model.merge_and_unload().to(DTYPE).eval()
        self._weight, self._bias = files.head(task)

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor]) -> list[int]:
        logits = nn.functional.linear(self._model(torch.stack(list(images))), self._weight, self._bias)
        return [int(best) for best in logits.argmax(1)]


class MixedTasks:
    """All tasks as adapters of one PEFT model, mixed in a batch by `adapter_names`; blocks end at the deepest row."""

    def __init__(self, files: PeerFiles) -> None:
        first, *others = files.depths
        model = peft.PeftModel.from_pretrained(
            files.backbone(), files.folder / first, adapter_name=first, autocast_adapter_dtype=False
        )
        for task in others:
            model.load_adapter(files.folder / task, adapter_name=task, autocast_adapter_dtype=False)
        self._model = model.to(DTYPE).eval()
        self._vit = model.base_model.model
        self._depths = files.depths
        self._heads = {task: files.head(task) for task in files.depths}

    @torch.inference_mode()
    def predict(self, tasks: Sequence[str], images: Sequence[Tensor]) -> list[int]:
        depths = [self._depths[task] for task in tasks]
        wanted = sorted({depth - 1 for depth in depths})
        with self._mixed(tasks):
            blocks = self._vit.forward_intermediates(
                torch.stack(list(images)), indices=wanted, stop_early=True, intermediates_only=True, norm=True,
                output_fmt="NLC", return_prefix_tokens=True,
            )  # fmt: skip
        best = []
        for row, (task, depth) in enumerate(zip(tasks, depths, strict=True)):
            patches, prefix = (part[row : row + 1] for part in blocks[wanted.index(depth - 1)])
            feature = self._vit.pool(torch.cat([prefix, patches], 1))
            best.append(int(nn.functional.linear(feature, *self._heads[task]).argmax()))
        return best

    def _mixed(self, tasks: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        # PeftModel does the same around its own forward, which gives no way to the blocks between.
        return self._model.base_model._enable_peft_forward_hooks(adapter_names=list(tasks))  # type: ignore[no-any-return]
