"""The Ray Serve application: decode, queue, infer and answer in one replica. The only file that imports Ray."""

# Ray pickles the routes by value where the class is decorated: annotations must be objects by then, not names that
# FastAPI looks up later, and what a route calls must stand above it.
import asyncio
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, cast

import ray
import torch
from fastapi import FastAPI, Query
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from ray import serve

from serving.port import check_port
from serving.service import Service
from store.allocator import keep_freed_memory
from store.errors import (
    BackboneMismatchError,
    ImageError,
    InvalidNameError,
    NotFoundError,
    OneTrunkError,
    OverloadedError,
)
from store.store import Store
from store.summary import summarise

MAX_BODY_NBYTES = 32 << 20
STATUS = {
    NotFoundError: 404,
    InvalidNameError: 400,
    ImageError: 400,
    BackboneMismatchError: 409,
    OverloadedError: 503,
}

api = FastAPI(title="onetrunk", description="Many image tasks from one vision transformer")


class ServeSettings(BaseModel):
    """Arguments of the application, as `deploy/serve.yaml` gives them."""

    model_config = ConfigDict(extra="forbid")

    store: str
    catalogue: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    threads: int | None = None


@api.exception_handler(OneTrunkError)
async def answer_error(_request: HttpRequest, error: OneTrunkError) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, status)


async def read_body(request: HttpRequest) -> bytes:
    """Read the body, refusing one of more than `MAX_BODY_NBYTES` before it is in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_NBYTES:
            raise ImageError(f"body is larger than {MAX_BODY_NBYTES:,} bytes: send a smaller or more compressed image")
    return bytes(body)


@serve.deployment(max_ongoing_requests=256, max_queued_requests=1024)
@serve.ingress(api)
class Replica:
    """One process, one engine, every task of the store that stands on its backbone."""

    def __init__(self, settings: ServeSettings) -> None:
        keep_freed_memory()
        # Ray sets OMP_NUM_THREADS from the replica's num_cpus, which is a share and not this machine's cores.
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        store = Store.open(settings.store, catalogue=settings.catalogue)
        self._service = Service(store, backbone=settings.backbone, dtype=settings.dtype, device=settings.device)
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")

    @api.post("/v1/predict/{ref:path}")
    async def predict(
        self,
        ref: str,
        request: HttpRequest,
        top: Annotated[int, Query(ge=1)] = 5,
        logits: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    ) -> dict[str, object]:
        """Answer the image in the body (JPEG, PNG, WebP or BMP) for `task`, `task@alias` or `task:version`."""
        image = await read_body(request)
        loop = asyncio.get_running_loop()
        queued = await loop.run_in_executor(self._workers, self._service.submit, ref, image)
        answer = await asyncio.wrap_future(queued)
        return answer.to_dict(top=top, logits=logits)

    @api.get("/v1/tasks")
    def tasks(self) -> list[dict[str, object]]:
        """List every version that this server answers for."""
        return [summarise(version) for version in self._service.versions()]

    @api.get("/healthz")
    def health(self) -> dict[str, object]:
        record = self._service.record
        return {"status": "ok", "backbone": record.name, "fingerprint": record.id.fingerprint}

    def check_health(self) -> None:
        self._service.check()


def build(settings: ServeSettings) -> serve.Application:
    """Build the application; `serve deploy` calls it with the config's `args`."""
    return cast(serve.Application, Replica.bind(settings))  # type: ignore[attr-defined]  # made by the decorator


@contextmanager
def running(applications: dict[str, ServeSettings], *, host: str, port: int) -> Iterator[None]:
    """Serve each application under its route prefix until the block ends, on this machine or on RAY_ADDRESS's cluster.

    Raises `PortTakenError` before anything is started.
    """
    check_port(host, port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    names = {prefix: prefix.strip("/") or "onetrunk" for prefix in applications}
    try:
        serve.start(http_options={"host": host, "port": port})
        for prefix, settings in applications.items():
            serve.run(build(settings), name=names[prefix], route_prefix=prefix)
        yield
    finally:
        # Only what was started here: on a shared cluster, other applications go on.
        for name in names.values():
            serve.delete(name)
        ray.shutdown()
