"""One process that answers over HTTP: a store, a predictor, and the API in front of them. It knows nothing of Ray."""

from __future__ import annotations

import torch
from fastapi import FastAPI

from serving.config import ServeConfig
from serving.console.mounting import mount_console
from serving.cpus import usable_cores
from serving.http.api import make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
from store.malloc import keep_freed_memory
from store.registry.store import Store


class ReplicaProcess:
    """What one replica holds; closed once it has answered what it admitted."""

    def __init__(self, settings: ServeConfig) -> None:
        keep_freed_memory()
        # Ray sets OMP_NUM_THREADS from the replica's num_cpus, which is a share and not the cores that it may use.
        torch.set_num_threads(settings.threads or usable_cores())
        self._store = Store.open(settings.store, catalogue=settings.catalogue)
        self._predictor = Predictor(
            self._store,
            backbone=settings.backbone,
            dtype=settings.dtype,
            device=settings.device,
            batch_invariant=settings.batch_invariant,
            schedule=settings.schedule,
        )
        self._keys, self._session_secret = settings.keys, settings.session_secret
        self._limits = HttpLimits(rate_limit=settings.rate_limit)

    def api(self) -> FastAPI:
        api = make_api(
            self._predictor, self._store, keys=self._keys, limits=self._limits, session_secret=self._session_secret
        )
        mount_console(api)
        return api

    def check(self) -> None:
        """Raise where this process would not answer a prediction."""
        self._predictor.check()

    def close(self) -> None:
        """Refuse what comes from now on, answer what is queued, release the versions."""
        self._predictor.close()
