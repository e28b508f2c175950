"""Commands that publish, export, remove and restore versions."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import REF_HELP, Aliases, BackboneName, DryRun, Force, Parent, Yes, command_group, example
from onetrunk.cli.output import confirm, log_dry_run, log_to_stderr, print_record, print_versions
from onetrunk.rendering.tables import size
from onetrunk.workflows import publish_folder
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from store.registry.store import Store

app = command_group()


class Layout(enum.StrEnum):
    PEFT = "peft"
    HUB = "hub"
    TRANSFORMERS = "transformers"


@app.command(epilog=example(
    "publish flowers ./checkpoint --backbone onetrunk/vit_tiny_64.v2 --depth 7 --alias prod",
    "publish flowers ./lora-vit-base --backbone hf-hub:google/vit-base-patch16-224-in21k",
    "publish flowers ./pruned --backbone onetrunk/vit_tiny_64.v2 --pruning-history history.json",
    "publish flowers ./checkpoint --parent flowers@prod --code-commit $(git rev-parse HEAD)",
))  # fmt: skip
@with_store(write=True)
def publish(
    options: StoreOptions,
    task: str,
    folder: Annotated[
        Path,
        typer.Argument(help="PEFT's two files on a timm ViT or a ViT, DeiT or DINOv2 of transformers; head; classes."),
    ],
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks that run; default: onetrunk.json's, or all.")] = None,
    backbone: BackboneName = None,
    alias: Aliases = None,
    parent: Parent = None,
    code_commit: Annotated[str | None, typer.Option(help="Git commit of the code that tuned it.")] = None,
    drop_above_depth: Annotated[
        bool, typer.Option("--drop-above-depth", help="Leave out adapters of blocks above the depth.")
    ] = False,
    pruning_history: Annotated[
        Path | None, typer.Option(help="What Torch-Pruning's pruning_history() says it took, as JSON.")
    ] = None,
    force: Force = False,
) -> None:
    """Publish a PEFT checkpoint and a head as a new version. What cannot be served exactly is refused."""
    with options.open(create=True) as store:
        version = publish_folder(
            store,
            task,
            folder,
            backbone=backbone,
            depth=depth,
            aliases=tuple(alias or ()),
            force=force,
            parent=parent,
            code_commit=code_commit,
            drop_above_depth=drop_above_depth,
            tell=log_to_stderr,
            pruning_history=pruning_history,
        )
    print_versions([version], options.fmt)


@app.command("import", epilog=example(
    "import flowers.bundle", "import flowers.bundle --as spring/flowers --alias prod", "import ./flowers --as flowers",
))  # fmt: skip
@with_store(write=True)
def import_versions(
    options: StoreOptions,
    path: Annotated[Path, typer.Argument(help="A bundle of `export --bundle`, or a task's folder.")],
    task: Annotated[str | None, typer.Option("--as", help="Publish under this name; required for a folder.")] = None,
    alias: Aliases = None,
    tenant: Annotated[str | None, typer.Option(help="Put every task of a bundle under this tenant.")] = None,
    backbone: BackboneName = None,
) -> None:
    """Publish the versions of a bundle, or a task's folder. Versions that the store has already stay as they are."""
    if path.is_dir() and (task is None or tenant is not None):
        raise InvalidSettingError(f"{path} is a folder, which does not name its task: add --as TASK")
    if not path.is_dir() and backbone is not None:
        raise InvalidSettingError("a bundle names its backbone itself: leave out --backbone")
    aliases = tuple(alias or ())
    with options.open(create=True) as store:
        if task is not None and path.is_dir():
            versions = [publish_folder(store, task, path, backbone=backbone, aliases=aliases, tell=log_to_stderr)]
        else:
            from store.registry.bundle import import_bundle

            versions = import_bundle(store, path, task=task, tenant=tenant, aliases=aliases)
    print_versions(versions, options.fmt)


@app.command(epilog=example(
    "export flowers@prod ./flowers",
    "export flowers@prod ./flowers --layout hub",
    "export flowers@prod ./flowers --layout transformers",
    "export flowers@prod ./flowers --merged",
    "export flowers@prod flowers.onnx --onnx",
    "export flowers@prod roses@prod garden.bundle --bundle",
))  # fmt: skip
@with_store(fmt=False)
def export(
    options: StoreOptions,
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help=f"{REF_HELP} A bundle takes several.")],
    target: Annotated[Path, typer.Argument(help="A new folder, or with --bundle or --onnx a new file.")],
    layout: Annotated[
        Layout, typer.Option(help="hub: with a model card. transformers: for that and PEFT, with a base model.")
    ] = Layout.PEFT,
    merged: Annotated[
        bool, typer.Option("--merged", help="A plain timm model: cut, the adapter in its weights.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="One ONNX file, from normalised images to logits.")] = False,
    bundle: Annotated[bool, typer.Option("--bundle", help="One self-contained file that `import` takes.")] = False,
    without_backbone: Annotated[
        bool, typer.Option("--without-backbone", help="Leave the backbone's weights out of the bundle.")
    ] = False,
) -> None:
    """Write a version as a folder for stock PEFT, byte for byte as it was published; as a bundle; or as a model."""
    if merged + onnx + bundle + (layout is not Layout.PEFT) > 1 and not (bundle and layout is not Layout.PEFT):
        raise InvalidSettingError("--merged, --onnx, --bundle and --layout exclude each other: give one of them")
    if not bundle and (len(refs) > 1 or without_backbone):
        raise InvalidSettingError("a folder holds one version and no backbone: add --bundle, or give one REF alone")
    if bundle and layout is not Layout.PEFT:
        raise InvalidSettingError(f"a bundle has a layout of its own: leave out --bundle, or --layout {layout}")
    with options.open() as store:
        if bundle:
            from store.registry.bundle import export_bundle

            export_bundle(store, refs, target, with_backbone=not without_backbone)
        elif merged or onnx or layout is Layout.TRANSFORMERS:
            _export_model(store, refs[0], target, merged=merged, onnx=onnx)
        elif layout is Layout.HUB:
            from onetrunk.rendering.model_card import export_hub

            export_hub(store, refs[0], target)
        else:
            store.export(refs[0], target)
    typer.echo(str(target))


def _export_model(store: Store, ref: str, target: Path, *, merged: bool, onnx: bool) -> None:
    from store.weights.converted.leaving import export_merged, export_onnx
    from store.weights.converted.transformers_export import export_transformers

    write = export_merged if merged else export_onnx if onnx else export_transformers
    write(store, ref, target)


@app.command(epilog=example("rm flowers:3 --dry-run", "rm flowers:3", "rm flowers --all-versions --yes"))
@with_store(write=True)
def rm(
    options: StoreOptions,
    ref: Annotated[str, typer.Argument(help="TASK:NUMBER or TASK@sha256:DIGEST; TASK with --all-versions.")],
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Remove the whole task.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove a version that no alias names and no server holds. Until `gc` frees it, `restore` brings it back."""
    with options.open() as store:
        removal = store.remove(ref, all_versions=all_versions, dry_run=True)
        if not dry_run:
            confirm(f"remove {', '.join(removal.versions)}?", yes=yes)
            removal = store.remove(ref, all_versions=all_versions)
    summary = {"versions": list(removal.versions), "freed_nbytes": removal.freed_nbytes}
    print_record(summary, options.fmt, {"removed": removal.versions, "freed by gc": f"{removal.freed_nbytes} B"})
    if dry_run:
        log_dry_run()
    else:
        task = removal.versions[0].rpartition(":")[0]
        log_to_stderr(
            f"`onetrunk gc` frees {size(removal.freed_nbytes)}; until then, `onetrunk restore {task}` brings it back"
        )


@app.command(epilog=example("restore flowers 3", "restore flowers"))
@with_store(write=True)
def restore(
    options: StoreOptions,
    task: str,
    number: Annotated[int | None, typer.Argument(min=1, help="One version; default: all that were removed.")] = None,
) -> None:
    """Bring back removed versions that `gc` has not freed yet."""
    with options.open() as store:
        versions = [store.resolve(f"{task}:{number}") for number in store.restore(task, number)]
    print_versions(versions, options.fmt)


@app.command(epilog=example("rollback flowers prod", "rollback flowers"))
@with_store(write=True)
def rollback(
    options: StoreOptions,
    task: str,
    alias: Annotated[str, typer.Argument(help="The alias to move back.")] = "latest",
    force: Force = False,
) -> None:
    """Move an alias back to the version that it named before. A second call moves it to the one before that."""
    with options.open() as store:
        version = store.rollback(task, alias, force=force)
    print_versions([version], options.fmt)
