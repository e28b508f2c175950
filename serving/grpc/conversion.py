"""Between the messages and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from serving.grpc.messages import message
from serving.oip.inference import (
    Answer,
    AskedOutput,
    GivenTensor,
    Inference,
    check_parameters,
    classes_of,
    split_elements,
    timeout_of,
)
from store.errors import FormatError

Message = Any
PLAIN: Mapping[str, tuple[str, np.dtype[Any]]] = {
    "UINT8": ("uint_contents", np.dtype("u1")),
    "FP32": ("fp32_contents", np.dtype("<f4")),
}
INFER_RESPONSE = message("ModelInferResponse")
STATISTICS_RESPONSE = message("ModelStatisticsResponse")


def read_inference(request: Message) -> Inference:
    parameters = parameters_of(request.parameters)
    check_parameters(parameters)
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise FormatError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs: send one for each, or none")
    inputs = [_tensor(tensor, raw[index] if raw else None) for index, tensor in enumerate(request.inputs)]
    outputs = [_asked(output) for output in request.outputs]
    return Inference(request.id, tuple(inputs), tuple(outputs), binary=True, timeout_s=timeout_of(parameters))


def write_answer(answer: Answer, model: str) -> Message:
    response = INFER_RESPONSE(model_name=model, model_version=str(answer.version), id=answer.id)
    response.parameters.add(key="depth").value.int64_param = answer.depth
    if answer.degraded:
        response.parameters.add(key="degraded").value.bool_param = True
    for output in answer.outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(output.raw())
    return response


def write_statistics(rows: Iterable[Mapping[str, Any]]) -> Message:
    response = STATISTICS_RESPONSE()
    for row in rows:
        added = response.model_stats.add(
            **{k: v for k, v in row.items() if k not in ("inference_stats", "batch_stats")}
        )
        for kind, duration in row["inference_stats"].items():
            of_kind = getattr(added.inference_stats, kind)
            of_kind.count, of_kind.ns = duration["count"], duration["ns"]
    return response


def parameters_of(entries: Iterable[Message]) -> dict[str, Any]:
    """Return the parameters by name, each the one value that is set."""
    return {entry.key: next((value for _, value in entry.value.ListFields()), None) for entry in entries}


def _asked(output: Message) -> AskedOutput:
    parameters = parameters_of(output.parameters)
    check_parameters(parameters)
    return AskedOutput(output.name, classes_of(parameters), binary=True)


def _tensor(tensor: Message, raw: bytes | None) -> GivenTensor:
    check_parameters(parameters_of(tensor.parameters))
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if datatype == "BYTES":
        elements = tuple(tensor.contents.bytes_contents) if raw is None else split_elements(raw, name[:80])
        return GivenTensor(name, datatype, shape, elements)
    if raw is None and datatype in PLAIN:
        field, dtype = PLAIN[datatype]
        values = np.array(getattr(tensor.contents, field))
        if datatype == "UINT8" and values.size and values.max() > 255:
            raise FormatError(f"input {name[:80]!r} holds what is not UINT8: send numbers up to 255")
        raw = values.astype(dtype).tobytes()
    return GivenTensor(name, datatype, shape, raw or b"")
