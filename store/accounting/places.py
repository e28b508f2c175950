"""Where every byte is: each file has exactly one kind, so that the identity holds by construction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from store.accounting.rows import Places
from store.backends.base import StoredFile
from store.backends.layout import BLOB_KEY, CATALOGUE, JOURNAL_KEY, is_temporary, kind_of


@dataclass(frozen=True)
class Files:
    """Every file of a store: the sizes of blobs by digest, of all others by kind, and the names of the garbage."""

    blobs: Mapping[str, int]
    others: Mapping[str, int]
    garbage: tuple[str, ...]
    count: int


def count_files(files: Iterable[StoredFile]) -> Files:
    blobs: dict[str, int] = {}
    others: Counter[str] = Counter()
    garbage: list[str] = []
    count = 0
    for path, nbytes, _ in files:
        count += 1
        blob = BLOB_KEY.fullmatch(path)
        if blob is not None:
            blobs[blob[2]] = nbytes
            continue
        kind = _kind(path)
        others[kind] += nbytes
        if kind in ("garbage", "orphaned", "quarantine"):
            garbage.append(path)
    return Files(blobs, others, tuple(sorted(garbage)), count)


def _kind(path: str) -> str:
    if JOURNAL_KEY.fullmatch(path):
        return "journal"
    kind = kind_of(path)
    if kind == "overhead":
        return "catalogue" if path.startswith(CATALOGUE) else "overhead"
    return "orphaned" if kind == "garbage" and is_temporary(path) else kind


def places_of(files: Files, *, live: Set[str], removed: Set[str], leased: Set[str]) -> Places:
    """Add up the files; the digests are those that versions and backbones, removed versions and leases reference."""
    sizes, others = files.blobs, files.others
    spare = sizes.keys() - live
    live_nbytes = sum(nbytes for digest, nbytes in sizes.items() if digest in live)
    reclaimable = sum(sizes[digest] for digest in spare)
    garbage = others.get("garbage", 0) + others.get("orphaned", 0) + others.get("quarantine", 0)
    overhead = others.get("catalogue", 0) + others.get("journal", 0) + others.get("overhead", 0)
    return Places(
        physical_nbytes=sum(sizes.values()) + sum(others.values()),
        live_nbytes=live_nbytes,
        reclaimable_nbytes=reclaimable,
        garbage_nbytes=garbage,
        overhead_nbytes=overhead,
        leased_nbytes=sum(sizes[digest] for digest in spare & leased),
        removed_nbytes=sum(sizes[digest] for digest in spare & removed),
        orphaned_nbytes=others.get("orphaned", 0),
        quarantined_nbytes=others.get("quarantine", 0),
        catalogue_nbytes=others.get("catalogue", 0),
        journal_nbytes=others.get("journal", 0),
        files=files.count,
    )
