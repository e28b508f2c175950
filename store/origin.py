"""Where a backbone came from, in words that timm, the Hub and the command line understand."""

from __future__ import annotations

import json
import shlex

from store.records import BackboneRecord

PREFIXES = ("hf-hub:", "local-dir:")
MAX_COMMAND = 1000  # characters; a record from elsewhere may hold anything


def timm_name(record: BackboneRecord) -> str | None:
    """Return the name under which timm finds the weights, None where they came from a file or with onetrunk."""
    base, _, tag = record.source.partition(".")
    named = base == record.id.architecture and tag != "safetensors"
    return record.source if named or record.source.startswith(PREFIXES) else None


def hub_id(record: BackboneRecord) -> str | None:
    """Return the repository of the weights on the Hub where the source alone tells it."""
    name = timm_name(record)
    if name is None or name.startswith("local-dir:"):
        return None
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:").partition("@")[0]
    return f"timm/{name}" if "." in name else None  # which tag is timm's default changes with timm


def add_command(record: BackboneRecord, *, file: str | None = None) -> str:
    """Return the command that adds the backbone to a store; weights from a file are in `file`, or where they were."""
    if record.source == "package":
        return f"onetrunk backbone add {record.name}"
    name = timm_name(record)
    found = [name] if name is not None else [record.id.architecture, "--weights", file or record.source]
    arguments = [part for key, value in record.id.arguments.items() for part in ("--arg", f"{key}={json.dumps(value)}")]
    label = [] if name == record.name else ["--as", record.name]
    command = shlex.join(["onetrunk", "backbone", "add", *found, *arguments, *label])
    return command if command.isprintable() and len(command) <= MAX_COMMAND else "onetrunk backbone add NAME"
