"""A version in the Hub's layout: the PEFT folder and, as README.md, a model card written from its manifest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from onetrunk.rendering.accuracy import with_counts
from onetrunk.rendering.tables import size
from store.adapters.checkpoint import CONFIG, HEAD, LABELS, WEIGHTS, parse_classes
from store.records.backbone import TRANSFORMERS, BackboneRecord, hub_id, source_of, timm_name
from store.records.blob import Blob
from store.records.manifest import Manifest
from store.registry.store import Store, Version

README = "README.md"
WEIGHTS_FILE = "backbone.safetensors"
SHOWN_CLASSES = 20
MAX_COMMAND = 1000  # characters; a record from elsewhere may hold anything
MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")


def export_hub(store: Store, ref: str, folder: str | Path) -> Path:
    """Write the version as a folder ready for the Hub; it must be new or empty, and `publish` takes it again."""
    version = store.resolve(ref)
    card = model_card(version, store.backbone(version.manifest.backbone), store.read(version.manifest.head.labels))
    folder = store.export(f"{version.task}@sha256:{version.digest}", folder)
    (folder / README).write_text(card, encoding="utf-8")
    return folder


def model_card(version: Version, backbone: BackboneRecord, labels: bytes) -> str:
    """Write the card: YAML that the Hub reads, and how to load the files without onetrunk."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters.update(yaml=yaml_string, plain=escape_markdown, accuracy=with_counts, size=size, repr=repr)
    template = environment.from_string(
        (resources.files("onetrunk.rendering") / "assets" / "card.md").read_text("utf-8")
    )
    classes = parse_classes(labels)
    return template.render(
        version=version,
        manifest=version.manifest,
        backbone=backbone,
        preprocessing=backbone.id.preprocessing,
        base_model=hub_id(backbone),
        pretrained=timm_name(backbone),
        converted=backbone.source.startswith(TRANSFORMERS),
        weights_file=WEIGHTS_FILE,
        command=add_command(backbone, file=WEIGHTS_FILE),
        classes=[*classes[:SHOWN_CLASSES], *(["…"] if len(classes) > SHOWN_CLASSES else [])],
        arguments=dict(backbone.id.arguments),
        data=_data(version),
        files=_files(version.manifest),
    )


def add_command(record: BackboneRecord, *, file: str | None = None) -> str:
    """Return the command that adds the backbone to a store; weights from a file are in `file`, or where they were."""
    source = source_of(record, file=file)
    weights = [] if source.weights is None else ["--weights", source.weights]
    arguments = [part for key, value in source.arguments.items() for part in ("--arg", f"{key}={json.dumps(value)}")]
    label = [] if source.label is None else ["--as", source.label]
    command = shlex.join(["onetrunk", "backbone", "add", source.name, *weights, *arguments, *label])
    return command if command.isprintable() and len(command) <= MAX_COMMAND else "onetrunk backbone add NAME"


def yaml_string(text: str) -> str:
    """Quote for YAML so that no text, however odd, ends the string or the front matter."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def escape_markdown(text: str) -> str:
    """Show the text as it is, on one line, whatever markup it looks like."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))


def _data(version: Version) -> str:
    lineage = version.manifest.lineage
    return (lineage.data if lineage else None) or version.task


def _files(manifest: Manifest) -> Mapping[str, Blob]:
    return {
        CONFIG: manifest.adapter.config,
        WEIGHTS: manifest.adapter.weights,
        HEAD: manifest.head.weights,
        LABELS: manifest.head.labels,
    }
