"""The tasks that a predictor answers for: the versions that refs name, and their weights in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving.engine.row_plan import EngineTask
from serving.runtime.adapter_cache import AdapterCache, Pin
from serving.runtime.choices import Choice, Named
from serving.runtime.served_backbone import ServedBackbone
from serving.runtime.served_versions import ServedVersions
from store.errors import BackboneMismatchError, InvalidSettingError
from store.registry.store import Version

CACHE_NBYTES = 1 << 30


class ServedTasks:
    """Every version of a store that uses one of these backbones, which are by their fingerprints."""

    def __init__(self, versions: ServedVersions, backbones: Mapping[str, ServedBackbone]) -> None:
        self._versions, self._backbones = versions, backbones
        self.cache = AdapterCache(budget_nbytes=CACHE_NBYTES)

    def resolve(self, refs: Sequence[str]) -> list[Version]:
        """Return the versions that the refs name, which may ask the store; raise where not all are served here.

        Of a split alias, that is the stable version.
        """
        check_refs(refs)
        return [self._check(self._versions.find(ref).version) for ref in refs]

    def choose(self, refs: Sequence[str], key: str) -> list[Choice]:
        """Return the versions that answer a request with this key, as `resolve` does."""
        check_refs(refs)
        return [self._choose(self._versions.find(ref), key) for ref in refs]

    def cached(self, refs: Sequence[str], key: str) -> list[Choice] | None:
        """Return what `choose` does where that takes no time, None where it would ask the store."""
        found = [self._versions.cached(ref) for ref in refs]
        known = [self._choose(named, key) for named in found if named is not None]
        return known if len(known) == len(refs) else None

    def _choose(self, named: Named, key: str) -> Choice:
        choice = named.choose(key)
        self._check(choice.version)
        if choice.shadow is not None and not self._serves(choice.shadow):
            return replace(choice, shadow=None)
        return choice

    def _serves(self, version: Version) -> bool:
        return version.manifest.backbone in self._backbones

    def acquire(self, version: Version) -> Pin:
        """Pin the weights of the version, which a thread loads where they are not in memory."""
        self._versions.use(version)
        return self.cache.acquire(version.digest, lambda: self._load(version))

    def _check(self, version: Version) -> Version:
        if not self._serves(version):
            names = " and ".join(repr(backbone.record.name) for backbone in self._backbones.values())
            raise BackboneMismatchError(
                f"{version.task}:{version.number} uses backbone {version.manifest.backbone_name!r}, "
                f"this server holds {names}: ask one that was started with that `backbone=`"
            )
        return version

    def _load(self, version: Version) -> EngineTask:
        self._versions.hold(version)
        return self._backbones[version.manifest.backbone].load(version.manifest)


def check_refs(refs: Sequence[str]) -> None:
    if not refs:
        raise InvalidSettingError("the request names no task: give at least one ref")
