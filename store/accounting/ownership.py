"""Who references which blob: what is shared, what is unique, and what deleting a set of versions would free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

Place = tuple[str, int]
"""A version: its task and number."""


@dataclass(frozen=True)
class Ownership:
    """The references of the versions that are there, by version and by digest, and what else holds blobs.

    `sizes` are those of the catalogue, `present` those of the files: a missing blob has none.
    """

    blobs_of: Mapping[Place, tuple[str, ...]]
    users_of: Mapping[str, list[Place]]
    sizes: Mapping[str, int]
    present: Mapping[str, int]
    of_backbones: Collection[str]
    leased: Collection[str]

    def nbytes(self, digests: Iterable[str]) -> int:
        return sum(map(self.sizes.__getitem__, digests))

    def blobs(self, versions: Iterable[Place]) -> set[str]:
        return {digest for place in versions for digest in self.blobs_of[place]}

    def unique(self, versions: Collection[Place]) -> set[str]:
        """Return the blobs that only these versions reference."""
        members = frozenset(versions)
        return {
            digest
            for digest in self.blobs(members)
            if digest not in self.of_backbones and members.issuperset(self.users_of[digest])
        }

    def freed(self, versions: Collection[Place]) -> int:
        """Return the bytes by which removing exactly these versions makes a collection free more."""
        return self.freed_of(self.unique(versions))

    def freed_of(self, unique: Iterable[str]) -> int:
        return sum(self.present.get(digest, 0) for digest in unique if digest not in self.leased)


def ownership_of(
    references: Iterable[tuple[Place, str, int]],
    *,
    present: Mapping[str, int],
    of_backbones: Mapping[str, int],
    leased: Collection[str],
) -> Ownership:
    """Collect references, each a version with the digest and the size of a blob."""
    blobs_of: defaultdict[Place, list[str]] = defaultdict(list)
    users_of: defaultdict[str, list[Place]] = defaultdict(list)
    sizes = dict(of_backbones)
    for place, digest, nbytes in references:
        blobs_of[place].append(digest)
        users_of[digest].append(place)
        sizes[digest] = nbytes
    return Ownership(
        {place: tuple(digests) for place, digests in blobs_of.items()}, users_of, sizes, present, of_backbones, leased
    )
