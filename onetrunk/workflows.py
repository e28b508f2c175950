"""What the command line and scripts share: whole jobs that need several packages.

Libraries are imported where they are needed: to publish a folder takes no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from onetrunk.stores import open_store
from store.errors import StoreNotFoundError
from store.records.backbone import DEFAULT_BACKBONE
from store.records.refs import check_name

if TYPE_CHECKING:
    from sls.data.dataset import Dataset
    from sls.pipeline.config import FitConfig
    from sls.progress import Progress
    from store.adapters.checkpoint import Checkpoint
    from store.records.backbone import BackboneRecord
    from store.registry.store import Store, Version
    from store.weights.backbones import Backbone


def fit_and_publish(
    store: Store,
    task: str,
    dataset: Dataset,
    *,
    backbone: str = DEFAULT_BACKBONE,
    config: FitConfig | None = None,
    aliases: tuple[str, ...] = (),
    force: bool = False,
    parent: str | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Version:
    """Tune a task on a backbone of the store, cut it, tune it again, certify it and publish it.

    A backbone that the store does not have is loaded by its timm name and added. `parent` is a ref of the version that
    this one was made from. `out` keeps the task's folders, and an interrupted call with the same arguments goes on from
    there; by default they go once the version is published, and stay where anything fails after the first epoch.
    `force` moves protected aliases too.

    Raises what `fit` and `Store.publish` raise. A store that cannot be written, a name that is not valid, a protected
    alias and a parent that does not exist are refused before anything is tuned; where the publishing is refused after
    that, a note on the error says where the tuned folder is kept.
    """
    from sls.pipeline.config import FitConfig
    from sls.pipeline.fit import fit
    from sls.pipeline.work_folder import work_folder
    from sls.progress import ignore_progress

    config = config or FitConfig()
    check_publishable(store, task, aliases, force=force, parent=parent, drop_known=config.measures_drop)
    with work_folder(out) as folder:
        result = fit(
            dataset, adopt_backbone(store, backbone), out=folder, config=config, progress=progress or ignore_progress
        )
        return publish_folder(store, task, result.cut, aliases=aliases, force=force, parent=parent)


def check_publishable(
    store: Store,
    task: str,
    aliases: tuple[str, ...] = (),
    *,
    force: bool = False,
    parent: str | None = None,
    drop_known: bool = True,
) -> None:
    """Raise what publishing this task would raise whatever its folder holds: to be asked before it is tuned.

    `drop_known` says that its certificate will have the accuracy at full depth.
    """
    store.check_writable()
    check_names(task, aliases)
    for alias in aliases:
        store.check_alias(task, alias, force=force, drop_known=drop_known)
    if parent is not None:
        store.resolve(parent)


def check_names(task: str, aliases: tuple[str, ...] = ()) -> None:
    """Raise where a name is not valid in any store."""
    from store.registry.publish import PublishOptions

    check_name(task, "task")
    PublishOptions(aliases=aliases)
    for alias in aliases:
        check_name(alias, "alias")


def publish_folder(
    store: Store,
    task: str,
    folder: str | Path,
    *,
    backbone: str | None = None,
    depth: int | None = None,
    aliases: tuple[str, ...] = (),
    force: bool = False,
    parent: str | None = None,
    code_commit: str | None = None,
    drop_above_depth: bool = False,
    pruning_history: str | Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Version:
    """Publish a task's folder as `Store.publish` does, with a parent version or a code commit added to its lineage.

    It may also be one that PEFT left on a ViT, DeiT or DINOv2 of transformers: its adapter and base model are
    converted. `backbone` names a backbone of the store, or one that is loaded and added: the packaged one, a folder or
    `hf-hub:…`. `drop_above_depth` leaves out adapters of blocks that do not run. `parent` is a ref of the version that
    this one was made from, `code_commit` what git calls the code that tuned it. `pruning_history` is what
    Torch-Pruning says it took from a backbone of the store, as JSON; the adapter is of the pruned shape. `tell` gets,
    in words, what was changed of the folder and which backbone was added.
    """
    from store.adapters.checkpoint import check, drop_above
    from store.adapters.lineage import with_lineage
    from store.registry.publish import PublishOptions

    store.check_writable()
    check_names(task, aliases)
    folder = Path(folder)
    checkpoint, added, name = _read_folder(store, folder, backbone, depth)
    record = added.record if added is not None else None if name is None else store.backbone(name)
    if record is not None:
        blocks = depth or (checkpoint.card.prune_index.depth if checkpoint.card else record.blocks)
        checkpoint = drop_above(checkpoint, blocks, record.geometry) if drop_above_depth else checkpoint
        if pruning_history is not None:
            checkpoint = _with_history(store, checkpoint, record, Path(pruning_history), depth)
        check(checkpoint, record, blocks)
        parent_version = None if parent is None else store.resolve(parent)
        checkpoint = with_lineage(checkpoint, record, depth=depth, parent=parent_version, code_commit=code_commit)
    changes = list(checkpoint.changes)
    if added is not None:
        name = add_backbone(store, added).id.fingerprint
        changes.append(f"added backbone {added.record.name} to the store")
    options = PublishOptions(backbone=name, depth=depth, aliases=aliases, force=force)
    version = store.publish_checkpoint(task, checkpoint, where=str(folder), options=options)
    if tell is not None:
        for change in changes:
            tell(change)
    return version


def _read_folder(
    store: Store, folder: Path, backbone: str | None, depth: int | None
) -> tuple[Checkpoint, Backbone | None, str | None]:
    """Read the folder; return also the backbone that the store does not have yet, and the name of its backbone."""
    from store.adapters.checkpoint import read_checkpoint
    from store.adapters.tuned_folder import is_of_transformers

    if is_of_transformers(folder):
        from store.weights.converted.folder import convert_folder

        converted = convert_folder(store, folder, backbone=backbone, depth=depth)
        fingerprint = converted.backbone.record.id.fingerprint
        known = any(record.id.fingerprint == fingerprint for record in store.backbones())
        return converted.checkpoint, None if known else converted.backbone, fingerprint
    checkpoint = read_checkpoint(folder)
    name = backbone or (checkpoint.card.backbone if checkpoint.card else None)
    if name is None or any(name in (record.name, record.id.fingerprint) for record in store.backbones()):
        return checkpoint, None, name
    from store.weights.converted.folder import find_backbone

    return checkpoint, find_backbone(store, name), name


def adopt_backbone(
    store: Store,
    name: str,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, object] | None = None,
    label: str | None = None,
) -> Backbone:
    """Open a backbone of the store by name or fingerprint; one that it does not have is loaded and added.

    `weights`, `arguments` and `label` are those of `load_backbone`.
    """
    from store.weights.backbones import load_backbone

    known = _open_known(store, label or name)
    if known is not None:
        return known
    backbone = load_backbone(name, weights=weights, arguments=arguments, label=label)
    add_backbone(store, backbone)
    return backbone


def add_backbone(store: Store, backbone: Backbone, *, by_reference: bool = False) -> BackboneRecord:
    """Add a backbone to the store and return its record there; its weights are kept once, for all tasks.

    With `by_reference`, the weights stay at their source, such as a model hub, pinned by the fingerprint. Raises
    `InvalidNameError` where another backbone has the name.
    """
    from store.weights.backbones import encode

    return store.add_backbone(backbone.record, None if by_reference else encode(backbone))


def order_backbone(
    store: Store,
    name: str,
    label: str,
    *,
    tasks: Mapping[str, Dataset] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BackboneRecord:
    """Add a copy of a backbone whose heads and units are ordered by importance, under another name; return its record.

    `tasks` are refs of tasks on this backbone, of full depth and width, with their data: the order is the one that
    suits them together. Without any it is by the weights. Tasks that are tuned on the copy keep the first heads and
    units, which takes three bytes a block.
    """
    import tempfile

    from sls.progress import ignore_progress
    from sls.width.order import order_by_importance

    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            store.export(ref, Path(scratch) / str(number)): dataset
            for number, (ref, dataset) in enumerate((tasks or {}).items())
        }
        backbone = adopt_backbone(store, name)
        ordered = order_by_importance(backbone, folders, label=label, progress=progress or ignore_progress)
    return add_backbone(store, ordered)


def borrow_backbone(url: str | Path, name: str, *, catalogue: str | None = None) -> Backbone:
    """Open a backbone of the store at this address, or load it by name; the store stays as it is, or absent."""
    from store.weights.backbones import load_backbone

    with contextlib.suppress(StoreNotFoundError), open_store(url, catalogue=catalogue) as store:
        known = _open_known(store, name)
        if known is not None:
            return known
    return load_backbone(name)


def _with_history(
    store: Store, checkpoint: Checkpoint, record: BackboneRecord, path: Path, depth: int | None
) -> Checkpoint:
    from store.adapters.pruning_history import with_pruning_history

    return with_pruning_history(checkpoint, record, path, heads=_heads_of(store, record), depth=depth)


def _heads_of(store: Store, record: BackboneRecord) -> int:
    """Return how many attention heads a block has, which the record alone may not tell."""
    from store.adapters.widths import require_one_width
    from store.weights.backbones import open_backbone

    require_one_width(record)
    first = open_backbone(store, record).skeleton().get_submodule(f"{record.geometry.paths[0]}.attn")
    return int(first.num_heads)


def _open_known(store: Store, name: str) -> Backbone | None:
    """Open the backbone of this name or fingerprint; None where the store has none."""
    from store.weights.backbones import open_backbone

    known = [record for record in store.backbones() if name in (record.name, record.id.fingerprint)]
    return open_backbone(store, known[0]) if known else None
