"""Everything that changes a store, by name: how the store before it is made, and the call itself."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import support
from store.errors import ConflictError, NotFoundError, OnetrunkError
from store.maintenance.garbage import collect_garbage
from store.maintenance.migrate import migrate
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.records.events import AliasRule
from store.registry.bundle import import_bundle
from store.registry.store import Store
from support.crash_subjects import Acknowledge

GOLDEN = Path(support.__file__).parents[1] / "golden" / "store-format-1.tar.gz"
TASK = "flowers"
BACKBONE = "toy/vit"


@dataclass(frozen=True)
class Verb:
    """`prepare` makes the store at a root out of the folder that `make_inputs` left; `run` is what is interrupted.

    `done` is what it may raise where it has been done already. With `steps`, the store is whole after each of several.
    """

    prepare: Callable[[Path, Path], None]
    run: Callable[[Path, Path, Acknowledge], None]
    done: type[OnetrunkError] = NotFoundError
    steps: bool = False


def _nothing(_root: Path, _inputs: Path) -> None: ...


def _base(root: Path, inputs: Path) -> None:
    shutil.copytree(inputs / "store", root)


def _changed(*changes: Callable[[Store], object]) -> Callable[[Path, Path], None]:
    def prepare(root: Path, inputs: Path) -> None:
        _base(root, inputs)
        with Store.open(root, actor="before") as store:
            for change in changes:
                change(store)

    return prepare


def _run(change: Callable[[Store, Path], object], *, create: bool = False) -> Callable[[Path, Path, Acknowledge], None]:
    def run(root: Path, inputs: Path, acknowledge: Acknowledge) -> None:
        with Store.open(root, actor="the verb", create=create) as store:
            change(store, inputs)
            acknowledge()

    return run


def _verb(change: Callable[[Store, Path], object], prepare: Callable[[Path, Path], None] = _base) -> Verb:
    return Verb(prepare, _run(change))


def _publish(task: str, name: str) -> Callable[[Store, Path], object]:
    return lambda store, inputs: store.publish(task, inputs / name, backbone=BACKBONE, depth=1, aliases=("next",))


def _import(store: Store, inputs: Path) -> None:
    import_bundle(store, inputs / "bundle.onetrunk", aliases=("next",))


def _migrate(root: Path, _inputs: Path, acknowledge: Acknowledge) -> None:
    migrate(root, actor="the verb")
    acknowledge()


def _rebuild(root: Path, _inputs: Path, acknowledge: Acknowledge) -> None:
    rebuild(root)
    acknowledge()


def _make_empty(root: Path, _inputs: Path) -> None:
    Store.open(root, create=True, actor="before").close()


def _unpack_golden(root: Path, _inputs: Path) -> None:
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(root, filter="data")


def _lose_catalogue(root: Path, inputs: Path) -> None:
    _base(root, inputs)
    (root / "catalogue.sqlite").unlink()


def _damage(store: Store) -> None:
    labels = store.resolve(f"{TASK}:1").manifest.head.labels
    path = Path(store.blobs.locate(labels))
    path.chmod(0o644)
    path.write_bytes(bytes(labels.nbytes))


def _remove(store: Store) -> None:
    store.remove(f"{TASK}:2")


VERBS = {
    "create": Verb(_nothing, _run(lambda _store, _: None, create=True)),
    "publish": _verb(_publish(TASK, "four")),
    "publish known bytes": _verb(_publish("roses", "two")),
    "set alias": _verb(lambda store, _: store.set_alias(TASK, "live", 2)),
    "remove alias": _verb(lambda store, _: store.remove_alias(TASK, "live")),
    "set rule": _verb(lambda store, _: store.set_rule(AliasRule(TASK, "prod", protected=True, max_drop=1.0))),
    "set tag": _verb(lambda store, _: store.set_tag(TASK, "stage", "canary", version=1)),
    "remove": _verb(lambda store, _: _remove(store)),
    "restore": _verb(lambda store, _: store.restore(TASK, 2), _changed(_remove)),
    "collect": _verb(lambda store, _: collect_garbage(store, grace_s=0), _changed(_remove)),
    "import": Verb(_make_empty, _run(_import), steps=True),
    "quarantine": _verb(lambda store, _: verify(store, quarantine=True), _changed(_damage)),
    "migrate": Verb(_unpack_golden, _migrate),
    "rebuild": Verb(_lose_catalogue, _rebuild, ConflictError),
}
