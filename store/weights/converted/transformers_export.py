"""A version as a folder that stock transformers and PEFT load: the base model, cut at its depth, and the adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors.torch import load, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from store.adapters.methods.spec import LINEAR, PREFIX
from store.adapters.methods.targets import Config, matches
from store.adapters.module_names import SEPARATE, SPELLINGS
from store.adapters.task_files import CONFIG, LABELS, MODEL, MODEL_CONFIG, PROCESSOR, WEIGHTS
from store.errors import UnservedAdapterError, UnservedBackboneError
from store.registry.store import Store
from store.weights.backbones import Backbone
from store.weights.converted.leaving import load as load_version
from store.weights.converted.leaving import new_folder
from store.weights.converted.peft_files import PathOf, Settings, encode_deltas, encode_norms
from store.weights.converted.task import separate_tensors
from store.weights.converted.to_transformers import (
    CLASSES,
    family_of,
    image_processor,
    model_config,
    model_tensors,
    wide_head,
)
from store.weights.forms import Delta, Forms, Norm

BASE = "base"
FUSED = LINEAR[0]
PAGE = """# {task}
The classes are in `classes.txt`. With transformers from version 5 and PEFT:

```python
from peft import PeftModel
from transformers import AutoImageProcessor, {model}

processor = AutoImageProcessor.from_pretrained("{folder}/base")
base = {model}.from_pretrained("{folder}/base")
model = PeftModel.from_pretrained(base, "{folder}").eval()
logits = model(**processor(images=image, return_tensors="pt")).logits
```
"""

Adapter = tuple[Settings, dict[str, Tensor]]


def export_transformers(store: Store, ref: str, folder: str | Path) -> Path:
    """Write the version as an adapter of PEFT on a model of transformers, which is in the folder `base` beside it.

    The folder must be new or empty. Raises `UnservedBackboneError` where transformers has no such model,
    `UnservedAdapterError` where PEFT has no such method.
    """
    folder = new_folder(folder)
    version, backbone, weights = load_version(store, ref)
    if backbone.record.geometry.staged:
        raise UnservedBackboneError(f"backbone {backbone.record.name!r} is a Swin, which is exported for timm alone")
    vit = cast(VisionTransformer, backbone.build())
    family = family_of(vit, backbone.record.name)
    head = {"weight": weights.head_weight, "bias": weights.head_bias}
    preprocessing = backbone.record.id.preprocessing
    processor = json.dumps(image_processor(preprocessing), indent=2)
    config = model_config(vit, family, preprocessing, weights.labels, weights.depth)
    stored = store.read(version.manifest.adapter.config), store.read(version.manifest.adapter.weights)
    settings, tensors = _adapter(weights.forms, backbone, family, *stored)
    classifier = dict(zip(("weight", "bias"), wide_head(head, vit.embed_dim, family), strict=True))
    tensors |= {f"{PREFIX}classifier.{part}": tensor for part, tensor in classifier.items()}
    modules = cast("list[str]", settings.get("modules_to_save") or [])
    settings |= {"modules_to_save": ["classifier", *modules], "base_model_name_or_path": BASE}
    base = folder / BASE
    base.mkdir(parents=True)
    save_file(model_tensors(vit, family, weights.depth, head), base / MODEL, metadata={"format": "pt"})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    texts = {
        folder / CONFIG: json.dumps(settings, indent=2),
        folder / LABELS: "".join(f"{label}\n" for label in weights.labels),
        folder / PROCESSOR: processor,
        folder / "README.md": PAGE.format(task=version.task, model=CLASSES[family], folder=folder.name),
        base / PROCESSOR: processor,
        base / MODEL_CONFIG: json.dumps(config, indent=2, ensure_ascii=False),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return folder


def path_of(family: str) -> PathOf:
    """Return how version 5 of transformers names a module of the family, by its path with q, k and v apart."""
    *_, spelling = (spelling for names, spelling in SPELLINGS if family in names)
    blocks = f"{family}.encoder.layer" if family.startswith("dinov2") else f"{family}.layers"

    def path(module: str) -> str:
        if module == "norm":
            return f"{family}.layernorm"
        _, number, kind = module.split(".", 2)
        return f"{blocks}.{number}.{spelling[kind]}"

    return path


def _adapter(forms: Forms, backbone: Backbone, family: str, config: bytes, weights: bytes) -> Adapter:
    """Return the adapter with q, k and v apart; norms are saved as whole modules where linear maps change too."""
    if forms.bottlenecks:
        raise UnservedAdapterError(
            "its bottlenecks beside attention and the MLP are no method of PEFT: export it as it is"
        )
    names = path_of(family)
    if not forms.deltas:
        return encode_norms(forms.norms, names)
    if any(delta.in_turn is not None for delta in forms.deltas.values()):
        settings, tensors = _turned(json.loads(config), load(weights), backbone, names)
    else:
        parted = separate_tensors(backbone.tensors)
        settings, tensors = encode_deltas(_separate_deltas(forms.deltas), parted, names)
    settings["modules_to_save"] = [names(path) for path in forms.norms]
    return settings, tensors | _saved_norms(forms.norms, names)


def _saved_norms(norms: Mapping[str, Norm], names: PathOf) -> dict[str, Tensor]:
    stems = {path: f"{PREFIX}{names(path)}" for path in norms}
    weights = {f"{stems[path]}.weight": norm.weight.clone() for path, norm in norms.items()}
    return weights | {f"{stems[path]}.bias": norm.bias.clone() for path, norm in norms.items()}


def _separate_deltas(deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    """Cut the change of each `qkv` into those of q, k and v, which share what is on its inputs."""
    parted: dict[str, Delta] = {}
    for path, delta in deltas.items():
        if not path.endswith(FUSED):
            parted[path] = delta
            continue
        thirds = {
            "b": [None] * 3 if delta.b is None else delta.b.chunk(3, dim=1),
            **{
                name: [None] * 3 if (vector := getattr(delta, name)) is None else vector.chunk(3, dim=2)
                for name in ("bias", "out_scale", "out_turn")
            },
        }
        for index, kind in enumerate(SEPARATE):
            own = {name: parts[index] for name, parts in thirds.items()}
            parted[path.removesuffix(FUSED) + kind] = Delta(
                delta.a, own["b"], own["bias"], delta.in_scale, own["out_scale"], None, own["out_turn"], delta.group
            )
    return parted


def _turned(config: Config, tensors: Mapping[str, Tensor], backbone: Backbone, names: PathOf) -> Adapter:
    """Keep OFT and BOFT: the inputs of q, k and v are turned alike, scales of outputs are cut in three."""
    kept: dict[str, Tensor] = {}
    targets = []
    for path in backbone.record.modules:
        parts = {
            name.removeprefix(f"{PREFIX}{path}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{PREFIX}{path}.")
        }
        if not parts or not matches(config, path):
            continue
        kinds = SEPARATE if path.endswith(FUSED) else ("",)
        stem = path.removesuffix(FUSED) if path.endswith(FUSED) else path
        for index, kind in enumerate(kinds):
            targets.append(names(stem + kind))
            for part, tensor in parts.items():
                cut = part == "boft_s" and len(kinds) > 1
                kept[f"{PREFIX}{targets[-1]}.{part}"] = tensor.chunk(3)[index].clone() if cut else tensor.clone()
    unused = {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    return {**config, "target_modules": targets, **unused}, kept
