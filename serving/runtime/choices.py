"""Which version answers a request: the one that its ref names, or of a split alias the one that its key gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from store.records.refs import Ref
from store.records.splits import AliasSplit
from store.registry.store import Store, Version

STABLE, CANDIDATE, SHADOW, OVERLOAD = "stable", "candidate", "shadow", "overload"
"""In which part of a split a version was asked."""


@dataclass(frozen=True)
class Choice:
    """The version that answers, and what the split of its alias asks for beside it; without a split, nothing."""

    version: Version
    split: AliasSplit | None = None
    part: str = STABLE
    shadow: Version | None = None
    shallower: Version | None = None
    """Answers where `version` could not in time."""

    @property
    def degraded(self) -> bool:
        return self.part == OVERLOAD

    def degrade(self) -> Choice:
        """Return the shallower choice, the same one where there is none; nothing is shadowed then."""
        if self.shallower is None:
            return self
        return replace(self, version=self.shallower, part=OVERLOAD, shadow=None, shallower=None)


class Named(NamedTuple):
    """What a ref names: a version, and where its alias is split, the versions of the split by number."""

    version: Version
    split: AliasSplit | None = None
    versions: Mapping[int, Version] = {}

    def choose(self, key: str) -> Choice:
        """Return the choice for a request with this key."""
        split, versions = self.split, self.versions
        if split is None:
            return Choice(self.version)
        number = split.choose(key)
        version = versions[number]
        shadow = versions[split.shadow[0]] if split.shadow is not None and split.is_shadowed(key) else None
        shallower = None if split.overload is None else versions[split.overload]
        return Choice(
            version,
            split,
            STABLE if number == split.stable else CANDIDATE,
            None if shadow is version else shadow,
            shallower if shallower is not None and shallower.manifest.depth < version.manifest.depth else None,
        )


def look_up(store: Store, ref: str, known: Named | None) -> Named:
    """Ask the store what the ref names; manifests that are `known` are not read again."""
    version = store.resolve(ref, known=known and known.version)
    alias = Ref.parse(ref).alias
    split = None if alias is None else store.split(version.task, alias)
    if split is None or split.stable != version.number:  # the alias moved between the two queries
        return Named(version)
    before = {} if known is None else known.versions
    others = {
        number: store.resolve(f"{version.task}:{number}", known=before.get(number))
        for number in split.versions
        if number != version.number
    }
    return Named(version, split, {version.number: version, **others})
