"""What `collect` frees, when, and what it never touches."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from support.processes import snapshot
from support.toy_backbone import publish, relabel

from store.accounting.report import storage_report
from store.adapters.checkpoint import check, read_checkpoint
from store.adapters.manifests import ManifestDraft, build_manifest
from store.backends.local import LocalBackend
from store.errors import ConflictError, IntegrityError, InvalidSettingError
from store.maintenance.garbage import collect_garbage
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.registry.store import Store

GRACE_S = 0.6
PARTIAL = f".{'ab' * 32}.{'0' * 16}.partial"


def draft_of(store: Store, folder: Path, task: str = "flowers") -> ManifestDraft:
    """Do what a publish does before it touches the store."""
    record, checkpoint = store.backbone("toy/vit"), read_checkpoint(folder)
    return build_manifest(task, checkpoint, check(checkpoint, record, 2), record, 2)


def begin_publish(store: Store, draft: ManifestDraft, *, ttl_s: float) -> str:
    """Take a lease and put the blobs, as a publish does before its version is there."""
    digests = [blob.sha256 for blob in draft.contents]
    store.catalogue.lease("in flight", digests, holder="publish", expires_at=time.time() + ttl_s)
    for data in draft.contents.values():
        store.blobs.put(data)
    return "in flight"


def test_what_nothing_names_is_marked_first_and_swept_after_the_grace(store: Store) -> None:
    stray = store.blobs.put(b"left by a publish that died")
    for _ in range(2):
        first = collect_garbage(store, grace_s=GRACE_S)
        assert (first.marked, first.marked_nbytes, first.freed) == ((stray.sha256,), stray.nbytes, ())
    time.sleep(GRACE_S)
    second = collect_garbage(store, grace_s=GRACE_S)
    assert (second.marked, second.freed, second.freed_nbytes) == ((), (stray.sha256,), stray.nbytes)
    assert not store.blobs.holds(stray)


def test_a_removed_version_is_purged_after_the_grace_and_its_blobs_after_another(store: Store, folder: Path) -> None:
    version = publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"))
    own = {version.digest, version.manifest.head.labels.sha256}
    store.remove("flowers:1")
    assert collect_garbage(store, grace_s=GRACE_S).purged == ()
    time.sleep(GRACE_S)
    collected = collect_garbage(store, grace_s=GRACE_S)
    assert (collected.purged, set(collected.marked), collected.freed) == (("flowers:1",), own, ())
    time.sleep(GRACE_S)
    assert set(collect_garbage(store, grace_s=GRACE_S).freed) == own


def test_publishing_what_is_marked_unmarks_it(store: Store, folder: Path) -> None:
    labels = store.blobs.put((folder / "classes.txt").read_bytes())
    assert collect_garbage(store, grace_s=GRACE_S).marked == (labels.sha256,)
    publish(store, folder)
    time.sleep(GRACE_S)
    collected = collect_garbage(store, grace_s=GRACE_S)
    assert (collected.marked, collected.freed) == ((), ())
    assert verify(store) == []


def test_a_blob_named_since_it_was_marked_has_its_grace_again(store: Store, folder: Path) -> None:
    labels = store.blobs.put((folder / "classes.txt").read_bytes())
    collect_garbage(store, grace_s=GRACE_S)
    publish(store, folder)
    store.remove("flowers", all_versions=True)
    time.sleep(GRACE_S)
    collected = collect_garbage(store, grace_s=GRACE_S)
    assert collected.purged == ("flowers:1",)
    assert labels.sha256 in collected.marked
    assert collected.freed == ()


def test_waiting_for_the_grace_frees_in_one_call_what_is_marked_now(store: Store) -> None:
    stray = store.blobs.put(b"left")
    start = time.monotonic()
    assert collect_garbage(store, grace_s=GRACE_S, wait=True, dry_run=True).freed == (stray.sha256,)
    assert time.monotonic() - start < GRACE_S
    assert collect_garbage(store, grace_s=GRACE_S, wait=True).freed == (stray.sha256,)
    assert time.monotonic() - start >= GRACE_S


def test_a_publish_in_flight_keeps_its_blobs(store: Store, folder: Path) -> None:
    draft = draft_of(store, folder)
    lease = begin_publish(store, draft, ttl_s=60)
    for _ in range(2):
        assert collect_garbage(store, grace_s=0).freed == ()
    store.catalogue.publish("flowers", draft.entry, aliases=("latest",), lease=lease)
    assert verify(store) == []
    assert store.leases() == []


def test_a_publish_that_takes_longer_than_its_lease_is_told_so(store: Store, folder: Path) -> None:
    draft = draft_of(store, folder)
    lease = begin_publish(store, draft, ttl_s=0)
    assert set(collect_garbage(store, grace_s=0).freed) == {blob.sha256 for blob in draft.contents}
    with pytest.raises(ConflictError, match="publish again"):
        store.catalogue.publish("flowers", draft.entry, aliases=("latest",), lease=lease)
    assert verify(store) == []
    assert publish(store, folder).number == 1


def test_a_dry_run_says_what_a_collection_does_and_does_nothing(store: Store, folder: Path) -> None:
    publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"))
    store.remove("flowers:1")
    store.blobs.put(b"left")
    (store.root / "blobs" / PARTIAL).write_bytes(b"torn")
    store.release_connections()
    before = snapshot(store.root)
    foreseen = collect_garbage(store, grace_s=0, dry_run=True)
    store.release_connections()
    assert snapshot(store.root) == before
    assert collect_garbage(store, grace_s=0) == foreseen
    assert (foreseen.purged, foreseen.orphaned) == (("flowers:1",), (f"blobs/{PARTIAL}",))
    counted = storage_report(store)
    assert (counted.places.reclaimable_nbytes, counted.places.garbage_nbytes) == (0, 0)


def test_orphaned_files_of_writers_go_after_the_grace_and_no_file_of_anyone_else(store: Store) -> None:
    old, new, foreign = (
        store.root / "journal" / name for name in (PARTIAL, PARTIAL.replace("0", "1"), "movie.partial")
    )
    for path in (old, new, foreign):
        path.write_bytes(b"12345")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    collected = collect_garbage(store)
    assert (collected.orphaned, collected.freed_nbytes) == ((f"journal/{PARTIAL}",), 5)
    assert (old.exists(), new.exists(), foreign.exists()) == (False, True, True)


def test_what_was_set_aside_is_never_collected(store: Store, folder: Path) -> None:
    path = Path(store.blobs.locate(publish(store, folder).manifest.head.labels))
    path.unlink()
    path.write_bytes(b"damaged")
    verify(store, quarantine=True)
    os.utime(next((store.root / "quarantine").iterdir()), (0, 0))
    collect_garbage(store, grace_s=0)
    assert [aside.read_bytes() for aside in (store.root / "quarantine").iterdir()] == [b"damaged"]
    assert storage_report(store).places.quarantined_nbytes == 7


@pytest.mark.parametrize("grace_s", [-1, float("nan"), float("inf")])
def test_a_grace_that_is_not_a_valid_time_is_refused(store: Store, grace_s: float) -> None:
    with pytest.raises(InvalidSettingError, match="is not a valid time"):
        collect_garbage(store, grace_s=grace_s)


def test_what_an_unreadable_manifest_may_name_is_not_freed(store: Store, folder: Path) -> None:
    version = publish(store, folder)
    manifest = Path(store.blobs.locate(version.manifest_blob))
    kept = manifest.read_bytes()
    manifest.unlink()
    store.close()
    _lose_catalogue(store.root)
    assert len(rebuild(store.root).problems) == 1
    with Store.open(store.root) as again:
        for dry_run in (True, False):
            with pytest.raises(IntegrityError, match="manifest of flowers:1 could not be read when the catalogue was"):
                collect_garbage(again, grace_s=0, dry_run=dry_run)
    manifest.write_bytes(kept)
    _lose_catalogue(store.root)
    assert rebuild(store.root).problems == ()
    with Store.open(store.root) as again:
        assert collect_garbage(again, grace_s=0).freed == ()
        assert verify(again) == []


def test_a_removed_version_that_is_unreadable_stands_in_the_way_until_it_is_purged(store: Store, folder: Path) -> None:
    version = publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"))
    Path(store.blobs.locate(version.manifest_blob)).unlink()
    store.close()
    _lose_catalogue(store.root)
    rebuild(store.root)
    with Store.open(store.root) as again:
        again.remove("flowers:1")
        with pytest.raises(IntegrityError):
            collect_garbage(again)
        assert collect_garbage(again, grace_s=0, dry_run=True) == collect_garbage(again, grace_s=0)
        assert verify(again) == []


def test_the_weights_of_a_backbone_whose_record_is_unreadable_are_not_freed(store: Store) -> None:
    row = store.queries.backbones()[0]
    weights = store.backbone("toy/vit").weights
    Path(store.blobs.locate(Blob(row.record, row.record_nbytes))).unlink()
    store.close()
    _lose_catalogue(store.root)
    rebuild(store.root)
    with Store.open(store.root) as again:
        with pytest.raises(IntegrityError, match="is missing"):
            collect_garbage(again, grace_s=0)
        assert weights is not None
        assert again.blobs.holds(weights)


def test_a_write_goes_on_where_a_collection_takes_its_temporary_file(tmp_path: Path) -> None:
    backend, stop, taken = LocalBackend(tmp_path), threading.Event(), set[str]()

    def take_orphans() -> None:
        while not stop.is_set():
            for path in (tmp_path / "journal").glob(".*.partial"):
                written = path.name.split(".")[1]
                if written not in taken:  # once of each: a collection comes seldom
                    taken.add(written)
                    path.unlink(missing_ok=True)

    thread = threading.Thread(target=take_orphans)
    thread.start()
    try:
        for number in range(300):
            backend.put(f"journal/{number}", b"%d" % number)
            assert backend.create(f"journal/again-{number}", b"")
    finally:
        stop.set()
        thread.join()
    assert taken
    assert [backend.read(f"journal/{number}") for number in range(300)] == [b"%d" % number for number in range(300)]


def _lose_catalogue(root: Path) -> None:
    for path in root.glob("catalogue.sqlite*"):
        path.unlink()
