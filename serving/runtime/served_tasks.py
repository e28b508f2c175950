"""The tasks that a predictor answers for: the versions that refs name, and their weights in memory."""

from __future__ import annotations

from collections.abc import Sequence

from serving.engine.engine import Engine
from serving.engine.row_plan import EngineTask
from serving.runtime.adapter_cache import AdapterCache, Pin
from serving.runtime.served_versions import ServedVersions
from store.errors import BackboneMismatchError, InvalidSettingError
from store.registry.store import Store, Version
from store.weights.backbones import Backbone
from store.weights.load_task import load_task

CACHE_NBYTES = 1 << 30


class ServedTasks:
    """Every version of a store that uses one backbone."""

    def __init__(self, store: Store, versions: ServedVersions, backbone: Backbone, engine: Engine) -> None:
        self._store, self._versions, self._backbone, self._engine = store, versions, backbone, engine
        self.cache = AdapterCache(budget_nbytes=CACHE_NBYTES)

    def resolve(self, refs: Sequence[str]) -> list[Version]:
        """Return the versions that the refs name, which may ask the store; raise where not all are served here."""
        if not refs:
            raise InvalidSettingError("the request names no task: give at least one ref")
        return [self._check(self._versions.resolve(ref)) for ref in refs]

    def cached(self, refs: Sequence[str]) -> list[Version] | None:
        """Return what `resolve` does where that takes no time, None where it would ask the store."""
        versions = [self._versions.cached(ref) for ref in refs]
        known = [self._check(version) for version in versions if version is not None]
        return known if len(known) == len(refs) else None

    def acquire(self, version: Version) -> Pin:
        """Pin the weights of the version, which a thread loads where they are not in memory."""
        self._versions.use(version)
        return self.cache.acquire(version.digest, lambda: self._load(version))

    def _check(self, version: Version) -> Version:
        if version.manifest.backbone != self._backbone.record.id.fingerprint:
            raise BackboneMismatchError(
                f"{version.task}:{version.number} uses backbone {version.manifest.backbone_name!r}, "
                f"this server holds {self._backbone.record.name!r}: ask one that was started with that `backbone=`"
            )
        return version

    def _load(self, version: Version) -> EngineTask:
        self._versions.hold(version)
        engine, backbone = self._engine, self._backbone.tensors
        return engine.prepare(
            load_task(self._store, version.manifest, backbone=backbone, dtype=engine.dtype, device=engine.device)
        )
