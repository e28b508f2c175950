"""The store's own files, damaged byte by byte: the identity, the journal, the catalogue."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.populated_store import write

from store.backends.layout import CATALOGUE, IDENTITY, JOURNAL
from store.errors import ConflictError, FormatError, IntegrityError, OnetrunkError, StoreNotFoundError
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.registry.store import Store

CATALOGUE_FLIPS = 400


def flips(data: bytes, bits: range = range(8)) -> Iterator[tuple[str, bytes]]:
    for place in range(len(data)):
        for bit in bits:
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            yield f"bit {bit} of byte {place}", bytes(changed)


def answers(store: Store) -> list[object]:
    """Everything that a reader can ask for."""
    tasks = store.queries.tasks()
    return [
        [(store.resolve(task), store.aliases(task), store.tags(task), store.history(task)) for task in tasks],
        [store.versions(removed=True), store.rules(), store.backbones(), store.api_keys()],
        [store.search(), [store.list_versions(task, removed=True) for task in tasks], list(store.queries.history())],
        [store.resolve(f"{version.task}@sha256:{version.digest}") for version in store.versions()],
        [store.resolve("flowers@prod"), store.resolve("flowers:3"), store.queries.backbone_blobs()],
    ]


def test_every_bit_of_the_identity_that_flips_is_found(root: Path) -> None:
    path = root / IDENTITY
    whole = path.read_bytes()
    for what, data in flips(whole):
        write(path, data)
        with pytest.raises((FormatError, ConflictError), match=r"restore|upgrade|name its own") as caught:
            Store.open(root)
        assert str(root) in str(caught.value), what
    write(path, whole)
    assert verify(Store.open(root)) == []


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda d: d[:-9], lambda d: d * 2, lambda d: d + b"\0", lambda d: bytes(len(d)), lambda _: b"null",
     lambda _: b'{"format": 2, "uuid": 7}', lambda _: b"[" * 100_000, lambda d: d.replace(b"2", b"NaN", 1)],
    ids=["empty", "cut", "twice", "longer", "zeroed", "null", "a number", "deep", "NaN"],
)  # fmt: skip
def test_an_identity_that_is_none_is_refused(root: Path, damage: Callable[[bytes], bytes]) -> None:
    write(root / IDENTITY, damage((root / IDENTITY).read_bytes()))
    with pytest.raises(FormatError, match=f"{root / IDENTITY} .* restore it from a copy"):
        Store.open(root)


def test_a_store_without_its_identity_is_not_taken_for_an_empty_folder(root: Path) -> None:
    write(root / IDENTITY, None)
    with pytest.raises(StoreNotFoundError):
        Store.open(root)
    with pytest.raises(ConflictError, match="choose an empty"):
        Store.open(root, create=True)


def test_the_identity_of_another_store_is_refused(root: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other", create=True) as other:
        write(root / IDENTITY, (other.root / IDENTITY).read_bytes())
    with pytest.raises(ConflictError, match="is of store"):
        Store.open(root)


def test_every_byte_of_the_journal_that_flips_is_found_by_verify_and_by_rebuild(root: Path) -> None:
    draw = random.Random(0)
    with Store.open(root) as store:
        for path in sorted((root / JOURNAL).iterdir()):
            whole = path.read_bytes()
            for place in {0, 1, len(whole) - 1, *draw.sample(range(len(whole)), 8)}:
                changed = bytearray(whole)
                changed[place] ^= 1 << draw.randrange(8)
                write(path, bytes(changed))
                findings = verify(store, metadata_only=True)
                assert [finding.path for finding in findings] == [str(path)]
                assert findings[0].used_by[0]
                assert "restore" in findings[0].problem
            for other in (b"", whole[:-1], whole + b"\n", whole * 2):
                write(path, other)
                assert [finding.path for finding in verify(store, metadata_only=True)] == [str(path)]
            write(path, whole)
        assert verify(store) == []


def test_a_damaged_journal_builds_no_catalogue(root: Path) -> None:
    (root / CATALOGUE).unlink()
    entries = sorted((root / JOURNAL).iterdir())
    for path in entries:
        whole = path.read_bytes()
        damages = [whole[: len(whole) // 2], whole.replace(b'"', b"'", 1), whole.replace(b"1", b"3", 1)]
        for data in [*damages, None] if path != entries[-1] else damages[:2]:
            write(path, data)
            with pytest.raises(OnetrunkError, match=r"journal|upgrade|restore"):
                rebuild(root)
            assert not (root / CATALOGUE).exists()
            path.touch()
            write(path, whole)


def test_journal_entries_that_are_swapped_or_gone_are_found(root: Path) -> None:
    entries = sorted((root / JOURNAL).iterdir())
    with Store.open(root) as store:
        for one, other in itertools.pairwise(entries):
            datas = one.read_bytes(), other.read_bytes()
            write(one, datas[1])
            write(other, datas[0])
            assert {finding.path for finding in verify(store, metadata_only=True)} == {str(one), str(other)}
            write(one, datas[0])
            write(other, datas[1])
        whole = entries[3].read_bytes()
        write(entries[3], None)
        (finding,) = verify(store, metadata_only=True)
        assert finding.path == str(entries[3])
        entries[3].touch()
        write(entries[3], whole)
        assert verify(store) == []


def test_the_end_of_the_journal_that_is_gone_is_written_again_as_it_was(root: Path) -> None:
    entries = sorted((root / JOURNAL).iterdir())
    wholes = [entry.read_bytes() for entry in entries]
    for entry in entries[-3:]:
        entry.unlink()
    with Store.open(root) as store:
        verify(store)
        assert verify(store) == []
    assert [entry.read_bytes() for entry in sorted((root / JOURNAL).iterdir())] == wholes


def test_an_event_of_the_journal_that_the_catalogue_has_forgotten_is_found(root: Path) -> None:
    with Store.open(root) as store:
        before = (root / CATALOGUE).read_bytes()
        store.set_tag("flowers", "owner", "eve")
    for suffix in ("-wal", "-shm"):
        (root / (CATALOGUE + suffix)).unlink(missing_ok=True)
    (root / CATALOGUE).write_bytes(before)
    with pytest.raises(IntegrityError, match=r"old copy.*rebuild"), Store.open(root) as store:
        assert verify(store) == []


def test_no_byte_of_the_catalogue_can_flip_and_change_an_answer(root: Path) -> None:
    """A store in which `verify` finds nothing gives the same answers: the byte had no meaning."""
    draw = random.Random(0)
    with Store.open(root) as store:
        truth = answers(store)
    whole = (root / CATALOGUE).read_bytes()
    used = [place for place in range(len(whole)) if whole[place]]
    silent = 0
    for place in draw.sample(used, CATALOGUE_FLIPS):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        for suffix in ("-wal", "-shm"):
            (root / (CATALOGUE + suffix)).unlink(missing_ok=True)
        (root / CATALOGUE).write_bytes(changed)
        with contextlib.suppress(OnetrunkError), Store.open(root) as store:
            if verify(store, metadata_only=True) == []:
                assert answers(store) == truth, place
                silent += 1
    assert silent < CATALOGUE_FLIPS // 10


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda d: d[:4096],
        lambda d: d[: len(d) // 2],
        lambda d: bytes(len(d)),
        lambda _: b"no database" * 999,
    ],
    ids=["empty", "one page", "half", "zeroed", "text"],
)
def test_a_catalogue_that_is_cut_or_none_is_a_typed_error_and_is_rebuilt_with_the_same_answers(
    root: Path, damage: Callable[[bytes], bytes]
) -> None:
    with Store.open(root) as store:
        truth = answers(store)
    (root / CATALOGUE).write_bytes(damage((root / CATALOGUE).read_bytes()))
    with pytest.raises(OnetrunkError, match=r"restore it from a copy|rebuild"):
        Store.open(root)
    shutil.move(root / CATALOGUE, root.with_name("damaged.sqlite"))
    for suffix in ("-wal", "-shm"):
        (root / (CATALOGUE + suffix)).unlink(missing_ok=True)
    rebuild(root)
    with Store.open(root) as store:
        assert answers(store) == truth
        assert verify(store) == []
