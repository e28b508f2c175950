"""One process that answers over HTTP: a store, a predictor, and the API in front of them. It knows nothing of Ray."""

from __future__ import annotations

import torch
from fastapi import FastAPI

from serving.config import ServeConfig
from serving.console.mounting import mount_console
from serving.cpus import usable_cores
from serving.http.api import Api, make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
from serving.telemetry.log_sink import LogSink
from serving.telemetry.recorder import Recorder, Tracer
from serving.telemetry.snapshot import Peers, Snapshot
from store.malloc import keep_freed_memory
from store.registry.store import Store


class ReplicaProcess:
    """What one replica holds; closed once it has answered what it admitted."""

    def __init__(self, settings: ServeConfig, *, name: str) -> None:
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
        self._recorder = Recorder(
            name,
            self._predictor.usage,
            tasks=settings.metric_tasks,
            log=None if settings.log is None else LogSink(settings.log),
            tracer=None if settings.traces is None else make_tracer(settings, name),
            adds_ids=False,  # Ray's own middleware does
        )
        self._api: Api | None = None

    def api(self, peers: Peers) -> FastAPI:
        self._api = make_api(
            self._predictor,
            self._store,
            keys=self._keys,
            limits=self._limits,
            session_secret=self._session_secret,
            recorder=self._recorder,
            peers=peers,
        )
        mount_console(self._api)
        return self._api

    def snapshot(self) -> Snapshot:
        """Return what this replica knows of itself."""
        assert self._api is not None, "Ray has the application before it has requests"
        return self._api.snapshot()

    def check(self) -> None:
        """Raise where this process would not answer a prediction."""
        self._predictor.check()

    def close(self) -> None:
        """Refuse what comes from now on, answer what is queued, release the versions."""
        self._predictor.close()
        self._recorder.close()


def make_tracer(settings: ServeConfig, name: str) -> Tracer:
    """Return what sends traces to the collector; the library is loaded, and needed, only for that."""
    from serving.telemetry.traces import OtlpTracer

    assert settings.traces is not None, "traces are asked for"
    return OtlpTracer(settings.traces, share=settings.trace_share, replica=name)
