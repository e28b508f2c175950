"""How the command line writes the remedies that errors of the library name: one table."""

from __future__ import annotations

from collections.abc import Mapping

HINTS: Mapping[str, str] = {
    "adopt_backbone(store, name)": "onetrunk backbone add NAME",
    "all_versions=True": "--all-versions",
    "allow_duplicates=True": "--allow-duplicates",
    "backbone=": "--backbone NAME",
    "catalogue=": "--catalogue URL",
    "collect_garbage(store)": "onetrunk gc",
    "depth=": "--depth N",
    "drop_above_depth=True": "--drop-above-depth",
    "dtype=": "--dtype NAME",
    "end_split(store, task, alias)": "onetrunk alias split TASK ALIAS --end",
    "export_bundle(store, refs, path)": "onetrunk export REF FILE --bundle",
    "fit_and_publish(store, task, dataset)": "onetrunk fit TASK DATA",
    "force=True": "--force",
    "grpc_port=": "--grpc-port N",
    "ingress='haproxy'": "--ingress haproxy",
    "ingress='python'": "--ingress python",
    "insecure=True": "--insecure",
    "keep_last=": "--keep-last N",
    "keys=True": "onetrunk serve --keys",
    "label=": "--as NAME",
    "max_drop=": "--max-drop POINTS",
    "migrate(url)": "onetrunk migrate",
    "name=": "--name NAME",
    "open_store(url, create=True)": "onetrunk fit TASK DATA",
    "out=": "--out DIR",
    "port=": "--port N",
    "prefix=": "--prefix /PATH",
    "publish_folder(store, task, folder)": "onetrunk publish TASK FOLDER",
    "published_before=": "--older-than AGE",
    "rebuild(url)": "onetrunk rebuild",
    "resume=True": "--resume",
    "root=": "--data-root DIR",
    "save_dtype=": "--save-dtype NAME",
    "serve(store_url)": "onetrunk serve",
    "storage_report(store)": "onetrunk report --format json",
    "store.aliases(task)": "onetrunk alias ls TASK",
    "store.api_keys()": "onetrunk key ls",
    "store.backbones()": "onetrunk backbone ls",
    "store.history(task)": "onetrunk history TASK",
    "store.search()": "onetrunk ls",
    "store.set_alias(task, alias, version)": "onetrunk alias set TASK ALIAS VERSION",
    "store.set_rule(rule)": "onetrunk alias rule TASK ALIAS",
    "store.splits(task)": "onetrunk alias ls TASK",
    "store.versions(task)": "onetrunk ls TASK",
    "verify(store)": "onetrunk verify",
    "weights=": "--weights FILE",
}
"""A remedy as a message of the library writes it, in backticks -> the same on the command line."""


def with_hint(message: str) -> str:
    """Add to a message of the library how the command line writes the remedies that it names."""
    hints = [hint for remedy, hint in HINTS.items() if f"`{remedy}`" in message]
    return f"{message} ({', '.join(hints)})" if hints else message
