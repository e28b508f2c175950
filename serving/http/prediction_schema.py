"""What the schema says of predictions. `PredictionRoutes` answers these paths before FastAPI sees them."""

from __future__ import annotations

from fastapi import APIRouter

from serving.http.image_bodies import MULTIPART_TYPE
from serving.http.prediction_query import Many, Single
from serving.images import IMAGES_TYPE

BINARY: dict[str, object] = {"type": "string", "format": "binary"}
IMAGE: dict[str, object] = {"image/*": {"schema": BINARY}}
IMAGES: dict[str, object] = {
    IMAGES_TYPE: {"schema": BINARY},
    MULTIPART_TYPE: {"schema": {"type": "object", "properties": {"image": {"type": "array", "items": BINARY}}}},
}
routes = APIRouter()


def body_of(content: dict[str, object]) -> dict[str, object]:
    return {"requestBody": {"required": True, "content": content}}


@routes.post("/v1/predict/{ref:path}", response_model=None, openapi_extra=body_of(IMAGE | IMAGES))
async def predict(ref: str, query: Single) -> None:
    """Answer the image in the body (JPEG, PNG, WebP or BMP) for `task`, `task@alias` or `task:version`.

    A body of several images, as multipart/form-data or each after its length (u32, little-endian), gets `answers` in
    their order. With `timeout_ms`, counted from when the body is there, what cannot be answered in time is refused
    with 503.
    """


@routes.post("/v1/predict", response_model=None, openapi_extra=body_of(IMAGE))
async def predict_many(query: Many) -> None:
    """Answer the image in the body for each `ref`, in order; blocks that the tasks share are run once."""
