"""What the schema says of the Open Inference Protocol. `OipRoutes` answers these paths before FastAPI sees them."""

from __future__ import annotations

from fastapi import APIRouter

from serving.http.prediction_schema import body_of

Json = dict[str, object]
TEXT: Json = {"type": "string"}
REQUEST: Json = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": TEXT,
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape", "data"],
                "properties": {
                    "name": {"enum": ["image", "pixels", "normalised"]},
                    "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array", "items": {}},
                    "parameters": {"type": "object"},
                },
            },
        },
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": TEXT}}},
        "parameters": {"type": "object"},
    },
    "example": {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo…"]}],
        "outputs": [{"name": "scores", "parameters": {"classification": 5}}],
    },
}
COMMAND = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}
routes = APIRouter()
open_routes = APIRouter()


@open_routes.get("/v2/health/live", response_model=dict[str, object])
async def oip_live() -> None:
    """Say that the replica answers."""


@open_routes.get("/v2/health/ready", response_model=dict[str, object])
async def oip_ready() -> None:
    """Say with 200 that a prediction would be answered now, or with 503 why not."""


@routes.get("/v2", response_model=dict[str, object])
async def oip_server() -> None:
    """Name the server, and the extensions of the protocol that it has."""


@routes.get("/v2/models/{name:path}", response_model=dict[str, object])
async def oip_model(name: str) -> None:
    """Describe the inputs and outputs of a task; `/versions/NUMBER` may follow its name."""


@routes.get("/v2/models/{name:path}/ready", response_model=dict[str, object])
async def oip_model_ready(name: str) -> None:
    """Say whether the task would be answered now."""


@routes.get("/v2/models/{name:path}/stats", response_model=dict[str, object])
async def oip_model_statistics(name: str) -> None:
    """Show what all replicas answered of each of the task's versions."""


@routes.post(
    "/v2/models/{name:path}/infer",
    response_model=None,
    openapi_extra=body_of({"application/json": {"schema": REQUEST}}),
)
async def oip_infer(name: str) -> None:
    """Answer the images of one input tensor; docs/protocols.md has the binary extension too."""


@routes.get("/v2/models/stats", response_model=dict[str, object])
async def oip_statistics() -> None:
    """Show what all replicas answered of each version that the caller may see."""


@routes.post("/v2/repository/index", response_model=list[dict[str, object]], openapi_extra=COMMAND)
async def oip_index() -> None:
    """List the tasks of this server's backbones that the caller may see."""


@routes.post("/v2/repository/models/{name:path}/load", response_model=dict[str, object], openapi_extra=COMMAND)
async def oip_load(name: str) -> None:
    """Say that the task is served: what is published is served from the store at once."""


@routes.post("/v2/repository/models/{name:path}/unload", response_model=dict[str, object], openapi_extra=COMMAND)
async def oip_unload(name: str) -> None:
    """Refuse: a task is served for as long as the store has it."""
