"""What the Open Inference Protocol's requests mean here, over HTTP as over gRPC."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of_package
from typing import cast

import torch
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive
from torch import Tensor

from serving.http.admission import resolve, share_of
from serving.http.auth import AppState
from serving.http.bodies import HeldBody
from serving.http.degrading import answer_in_time
from serving.http.image_bodies import check_count
from serving.http.several_images import predict_each
from serving.http.telemetry_routes import ask_peers
from serving.oip.images import IMAGE, Images, count_images, find_input, images_of
from serving.oip.inference import Answer, Inference
from serving.oip.metadata import Json, ModelMetadata, make_metadata
from serving.oip.outputs import check_outputs, make_outputs
from serving.oip.statistics import MOST_ROWS, model_statistics
from serving.prediction import Prediction
from serving.runtime.engine_prediction import EnginePrediction
from serving.runtime.request_times import Origin
from serving.telemetry.request_record import RequestRecord
from store.errors import InvalidNameError, InvalidSettingError, RefusedError
from store.records.bounds import MAX_PAGE
from store.records.listing import Search
from store.records.refs import Ref
from store.records.version import Version
from store.registry.tenant_store import TenantStore

NAME = "onetrunk"
EXTENSIONS = ("classification", "binary_tensor_data", "model_repository", "statistics")
LARGE_NBYTES = 64 << 10  # of a tensor, above which another thread makes images of it
LOADED = "a task is served from the store as soon as it is published: there was nothing to load"
SERVED = (
    "a task is served for as long as the store has it: remove the version (DELETE /v1/versions/TASK:NUMBER), "
    "or move its alias"
)


class OipService:
    """Answers for one caller at a time; raises the errors of the REST routes."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    async def infer(
        self,
        inference: Inference,
        record: RequestRecord,
        held: HeldBody,
        receive: Receive,
    ) -> Answer:
        """Answer the images of a request that was admitted, by the version that was chosen; its body is `held`."""
        state, caller = self._state, record.caller
        assert caller is not None, "the caller was admitted"
        check_outputs(inference.outputs)
        images = await self._images(inference, record.versions[0], held)
        if state.rate is not None:
            state.rate.take(caller.key.id, len(images))
        deadline = None if inference.timeout_s is None else time.monotonic() + inference.timeout_s
        queue, share = state.predictor.queue, share_of(caller)

        def submit(versions: Sequence[Version], image: bytes | Tensor) -> tuple[Future[Prediction], ...]:
            origin = Origin(deadline, share, record.begin_image())
            if isinstance(image, bytes):
                return queue.submit_encoded(versions, image, origin)
            return queue.submit_pixels(versions, image, origin)

        answers = await answer_in_time(
            record, lambda versions: predict_each(images, partial(submit, versions), receive)
        )
        state.shadows.ask(record, images, answers, share)
        predictions = cast(list[EnginePrediction], answers)
        logits = torch.stack([prediction.tensor for prediction in predictions])
        outputs = make_outputs(inference, logits, predictions[0].labels)
        first = predictions[0]
        return Answer(inference.id, first.version, first.depth, outputs, first.degraded)

    async def _images(self, inference: Inference, version: Version, held: HeldBody) -> Images:
        given = find_input(inference.inputs)
        check_count(count_images(given), self._state.limits.images)
        preprocessing = self._state.predictor.preprocessing(version)
        if given.name == IMAGE or len(given.content) <= LARGE_NBYTES:
            return images_of(given, preprocessing)
        held.take(len(given.content), len(given.content))  # the images are copies
        return await run_in_threadpool(images_of, given, preprocessing)

    async def version(self, caller: TenantStore, name: str, number: str) -> Version:
        """Return the version that a name, and a number where one is given, mean."""
        ref = ref_of(name, number)
        caller.check("read", ref)
        return await resolve(self._state, ref)

    async def model_metadata(self, caller: TenantStore, name: str, number: str) -> ModelMetadata:
        version = await self.version(caller, name, number)
        listed = await run_in_threadpool(caller.list_versions, version.task)
        numbers = [str(number)] if number else [str(row.version) for row in listed]
        preprocessing = self._state.predictor.preprocessing(version)
        return make_metadata(name, numbers, preprocessing, version.manifest.head.classes)

    async def index(self, caller: TenantStore) -> list[Json]:
        """List the tasks of this server's backbones that the caller may see, each by its newest version."""
        searches = [Search(backbone=record.name) for record in self._state.predictor.records]
        rows = [row for search in searches for row in await run_in_threadpool(_index, caller, search)]
        return sorted(rows, key=lambda row: str(row["name"]))

    async def load(self, caller: TenantStore, name: str, parameters: object) -> str:
        """Say that a task is served; raise where it is not, or should be loaded in another way."""
        if parameters:
            raise InvalidSettingError("parameters: a task is served as it was published, so send none")
        await self.version(caller, name, "")
        return LOADED

    async def unload(self, caller: TenantStore, name: str) -> str:
        """Raise: no server may hide what the store has."""
        await self.version(caller, name, "")
        raise RefusedError(SERVED)

    async def statistics(self, caller: TenantStore, name: str, number: str) -> list[Json]:
        """Return what all replicas answered, of one version, of one task, or of all that the caller may see."""
        caller.check("read", name or None)
        task = Ref.parse(name).task if name else None
        version = await self.version(caller, name, number) if name else None
        asked = await ask_peers(self._state)
        wanted = str(version.number) if version is not None and ref_of(name, number) != task else None
        return model_statistics(asked.snapshots, tenant=caller.key.tenant, task=task, number=wanted)


def ref_of(name: str, number: str) -> str:
    """Return the ref of a model's name and version, where the version may be ""."""
    if not number:
        return name
    if name != Ref.parse(name).task:
        raise InvalidNameError(f"model {name[:200]!r} names a version already: leave version {number[:20]!r} out")
    return f"{name}:{number}"


def server_metadata() -> Json:
    try:
        number = version_of_package(NAME)
    except PackageNotFoundError:  # run from a folder of sources
        number = "0"
    return {"name": NAME, "version": number, "extensions": list(EXTENSIONS)}


def _index(caller: TenantStore, search: Search) -> list[Json]:
    rows: list[Json] = []
    after = None
    while True:
        page = caller.search(search, after=after, limit=MAX_PAGE)
        rows += [{"name": row.task, "version": str(row.version), "state": "READY", "reason": ""} for row in page.rows]
        after = page.next
        if after is None:
            return rows
        if len(rows) >= MOST_ROWS:
            raise RefusedError(f"there are more than {MOST_ROWS:,} tasks: list them by pages with GET /v1/tasks")
