"""Who references which blob: what is shared, what is unique, and what deleting a set of versions would free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

Place = tuple[str, int]
"""A version: its task and number."""

Reference = tuple[Place, str, int]
"""A version with the digest and the size of a blob of it."""


Name = TypeVar("Name", bound=Hashable)
Group = TypeVar("Group", bound=Hashable)


@dataclass
class Totals:
    """What a group of versions references, what only it does, and what removing it would free; filled blob by blob."""

    nbytes: int = 0
    unique_nbytes: int = 0
    freed_nbytes: int = 0


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

    @cached_property
    def own(self) -> dict[Place, Totals]:
        """The totals of each version alone: its bytes, without those that are common, without those that stay."""
        size, common, kept = self.sizes.__getitem__, self._common, self._kept
        totals = {}
        for place, digests in self.blobs_of.items():
            nbytes = sum(map(size, digests))
            unique = nbytes - sum([size(digest) for digest in digests if digest in common])
            stays = sum([kept[digest] for digest in digests if digest in kept and digest not in common])
            totals[place] = Totals(nbytes, unique, unique - stays)
        return totals

    @cached_property
    def _common(self) -> set[str]:
        """The blobs that several versions reference, or a version and a backbone: few, of the many there are."""
        return {d for d, users in self.users_of.items() if len(users) > 1 or d in self.of_backbones}

    @cached_property
    def _kept(self) -> dict[str, int]:
        """By how much less than its size removing a blob frees, where that is not 0: it is leased, or not there."""
        present, leased = self.present, self.leased
        return {
            digest: nbytes - (0 if digest in leased else present.get(digest, 0))
            for digest, nbytes in self.sizes.items()
            if digest in leased or present.get(digest) != nbytes
        }

    def totals(self, name_of: Mapping[Place, Name]) -> dict[Name, Totals]:
        """Return the totals of groups, each version being in the group that is named: as if counted blob by blob."""
        cells = self.cells(name_of)
        return cells.totals({name: name for name in cells.own})

    def cells(self, name_of: Mapping[Place, Name]) -> Cells[Name]:
        """Divide the versions into cells, of which groups are made."""
        own = {name: Totals() for name in name_of.values()}
        for place, totals in self.own.items():
            found = own[name_of[place]]
            found.unique_nbytes += totals.unique_nbytes
            found.freed_nbytes += totals.freed_nbytes
        common = []
        for digest in self._common:
            nbytes, is_kept = self.sizes[digest], digest in self.of_backbones
            freed = 0 if is_kept or digest in self.leased else self.present.get(digest, 0)
            users = frozenset(map(name_of.__getitem__, self.users_of[digest]))
            common.append(Common(users, nbytes, 0 if is_kept else nbytes, freed))
        return Cells(own, tuple(common))


class Common(NamedTuple, Generic[Name]):
    """A blob of several versions: the cells that use it, its size, and what is unique and freed if one group does."""

    users: frozenset[Name]
    nbytes: int
    unique_nbytes: int
    freed_nbytes: int


@dataclass(frozen=True)
class Cells(Generic[Name]):
    """Versions that are in the same group by whatever one groups: what they alone reference, and what is common."""

    own: Mapping[Name, Totals]
    common: tuple[Common[Name], ...]

    def totals(self, group_of: Mapping[Name, Group]) -> dict[Group, Totals]:
        """Return the totals of groups of cells."""
        totals = {group: Totals() for group in group_of.values()}
        for name, own in self.own.items():
            found = totals[group_of[name]]
            found.nbytes += own.unique_nbytes
            found.unique_nbytes += own.unique_nbytes
            found.freed_nbytes += own.freed_nbytes
        for blob in self.common:
            groups = {group_of[name] for name in blob.users}
            for group in groups:
                totals[group].nbytes += blob.nbytes
            if len(groups) == 1:
                found = totals[groups.pop()]
                found.unique_nbytes += blob.unique_nbytes
                found.freed_nbytes += blob.freed_nbytes
        return totals


def ownership_of(
    references: Iterable[Reference],
    *,
    present: Mapping[str, int],
    of_backbones: Mapping[str, int],
    leased: Collection[str],
) -> Ownership:
    """Collect the references, each version's own one after the other where that can be."""
    blobs_of: defaultdict[Place, list[str]] = defaultdict(list)
    users_of: defaultdict[str, list[Place]] = defaultdict(list)
    sizes = dict(of_backbones)
    last: Place | None = None
    for place, digest, nbytes in references:
        if place is not last:  # most versions come with all of their blobs at once
            blobs, last = blobs_of[place], place
        blobs.append(digest)
        users_of[digest].append(place)
        sizes[digest] = nbytes
    return Ownership(
        {place: tuple(digests) for place, digests in blobs_of.items()}, users_of, sizes, present, of_backbones, leased
    )
