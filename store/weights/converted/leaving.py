"""A version for those who go on without onetrunk: as a timm model, or as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from store.errors import ConflictError, InvalidSettingError, UnservedAdapterError
from store.records.version import Version
from store.registry.store import Store
from store.weights.backbones import Backbone, open_backbone
from store.weights.converted.merge import WideHead, merge, merged_arguments, with_head
from store.weights.forms import TaskWeights
from store.weights.load_task import load_task

OPSET = 20


def export_merged(store: Store, ref: str, folder: str | Path) -> Path:
    """Write the version as a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    Its blocks end at the version's depth, its adapter is part of their weights. The folder must be new or empty.
    Raises `UnservedAdapterError` where its forms or its head are no part of a timm model.
    """
    folder = new_folder(folder)
    version, backbone, weights = load(store, ref)
    model = with_head(merge(backbone, weights), weights)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    preprocessing = backbone.record.id.preprocessing
    config = {
        "architecture": backbone.record.id.architecture,
        "num_classes": len(weights.labels),
        "num_features": model.num_features,
        "model_args": merged_arguments(backbone, weights),
        "label_names": list(weights.labels),
        "pretrained_cfg": {
            "tag": version.task.replace("/", "-"),
            "num_classes": len(weights.labels),
            "input_size": [3, preprocessing.height, preprocessing.width],
            "fixed_input_size": True,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": preprocessing.crop_mode,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc" if backbone.record.geometry.staged else "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def export_onnx(store: Store, ref: str, file: str | Path) -> Path:
    """Write the version as one ONNX file: `images` (n, 3, height, width), normalised, to `logits` (n, classes).

    The class names and the preprocessing stand in the file's metadata. Raises `InvalidSettingError` where the
    packages for ONNX are missing, `UnservedAdapterError` where its forms are no part of weights.
    """
    try:
        import onnx
        import onnxscript as _  # noqa: F401  # what torch exports with
    except ImportError:
        raise InvalidSettingError(
            "ONNX is written with the packages onnx and onnxscript, which are missing: pip install 'onetrunk[onnx]'"
        ) from None
    file = Path(file)
    if file.exists():
        raise ConflictError(f"{file} exists: choose a new file")
    version, backbone, weights = load(store, ref)
    vit = merge(backbone, weights)
    wide = weights.head_weight.shape[1] != vit.num_features
    model: nn.Module = WideHead(cast(VisionTransformer, vit), weights).eval() if wide else with_head(vit, weights)
    preprocessing = backbone.record.id.preprocessing
    images = torch.zeros(2, 3, preprocessing.height, preprocessing.width)
    program = torch.onnx.export(
        model,
        (images,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    facts = {"task": version.task, "digest": version.digest, "classes": json.dumps(list(weights.labels))}
    facts["preprocessing"] = json.dumps(preprocessing_facts(backbone))
    for key, value in facts.items():
        onnx.helper.set_model_props(proto, {**{p.key: p.value for p in proto.metadata_props}, key: value})
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(proto, str(file))
    return file


def preprocessing_facts(backbone: Backbone) -> dict[str, object]:
    p = backbone.record.id.preprocessing
    return {
        "height": p.height,
        "width": p.width,
        "interpolation": p.interpolation,
        "mean": list(p.mean),
        "std": list(p.std),
        "crop_pct": p.crop_pct,
        "crop_mode": p.crop_mode,
    }


def load(store: Store, ref: str) -> tuple[Version, Backbone, TaskWeights]:
    """Return the version, its backbone, and its weights in float32; refuse one that leaves out parts of its blocks."""
    version = store.resolve(ref)
    index = version.manifest.prune_index
    if index.width is not None or index.tokens is not None:
        raise UnservedAdapterError(
            "it leaves out heads, units or patches, which no plain model of timm or transformers does: export it as it "
            "is"
        )
    backbone = open_backbone(store, store.backbone(version.manifest.backbone))
    return version, backbone, load_task(store, version.manifest, backbone=backbone.tensors)


def new_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} exists and is not an empty folder: choose a new one")
    return folder
