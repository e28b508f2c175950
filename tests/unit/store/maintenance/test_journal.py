"""What verify says of a journal or a catalogue that differs, and of a store that others change meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.toy_backbone import Toy, publish, relabel

from store.backends.layout import journal_key
from store.errors import (
    IntegrityError,
    OnetrunkError,
)
from store.maintenance.garbage import collect_garbage
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.registry.store import Store


def test_a_hole_in_the_journal_is_reported_once_and_repaired(used: Store) -> None:
    path = used.root / journal_key(3)
    kept = path.read_bytes()
    path.unlink()
    (finding,) = verify(used, metadata_only=True)
    assert (finding.path, finding.used_by) == (str(path), ("flowers",))
    assert "journal of event 3 is missing: run `verify(store)` again" in finding.problem
    assert verify(used, metadata_only=True) == []
    assert path.read_bytes() == kept


def test_a_changed_journal_is_reported_until_it_is_removed(used: Store) -> None:
    path = used.root / journal_key(3)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"publish", b"Publish"))
    for _ in range(2):
        (finding,) = verify(used, metadata_only=True)
        assert "journal of event 3 is not what the history says" in finding.problem
    path.unlink()
    verify(used, metadata_only=True)
    assert verify(used, metadata_only=True) == []


def test_a_catalogue_that_forgets_the_weights_of_a_backbone_is_found_and_frees_nothing(used: Store, toy: Toy) -> None:
    with closing(sqlite3.connect(used.root / "catalogue.sqlite")) as connection:
        connection.execute("update backbones set weights = null, weights_nbytes = null")
        connection.commit()
    assert [finding.used_by for finding in verify(used, metadata_only=True)] == [("backbone toy/vit",)]
    with pytest.raises(IntegrityError, match="does not know the weights of backbone toy/vit"):
        collect_garbage(used, grace_s=0)
    assert used.blobs.holds(Blob.of(toy.weights))


def test_verify_finds_nothing_while_others_publish_remove_and_collect(store: Store, folder: Path) -> None:
    stop, failed = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            with Store.open(store.root, actor="another") as other:
                for number in range(1, 1000):
                    publish(other, relabel(folder, "a", f"b {number}", "c"))
                    if number > 1:
                        other.remove(f"flowers:{number - 1}")
                        collect_garbage(other, grace_s=0)
                    if stop.is_set():
                        return
        except OnetrunkError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        found = [finding for _ in range(12) for finding in verify(store)]
    finally:
        stop.set()
        thread.join()
    assert (found, failed) == ([], [])
