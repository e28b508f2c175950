"""Requests and answers as HTTP carries them: JSON, and with the binary extension tensors after it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from itertools import chain
from typing import Any, cast

import numpy as np

from serving.oip.inference import (
    Answer,
    AskedOutput,
    GivenTensor,
    Inference,
    Json,
    MadeOutput,
    check_parameters,
    classes_of,
    split_elements,
    timeout_of,
)
from store.errors import FormatError

DTYPES: Mapping[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
KINDS = {"UINT8": "iu", "FP32": "iuf"}
MOST_DEPTH = 8  # of lists in lists


def parse_inference(body: bytes, head_nbytes: int | None) -> Inference:
    """Parse a request whose JSON takes `head_nbytes` of the body, None for all of it; 0 means that it is one image."""
    if head_nbytes == 0:
        return Inference("", (GivenTensor("image", "BYTES", (1,), (body,)),))
    head = _object(body if head_nbytes is None else body[:head_nbytes])
    binary, at = memoryview(body), len(body) if head_nbytes is None else head_nbytes
    inputs = []
    for fields in _objects(head, "inputs"):
        parameters = _parameters(fields)
        check_parameters(parameters)
        nbytes = parameters.get("binary_data_size")
        if nbytes is None:
            inputs.append(_plain_tensor(fields))
            continue
        if not isinstance(nbytes, int) or not 0 <= nbytes <= len(body) - at:
            raise FormatError(f"binary_data_size {str(nbytes)[:40]!r}: {len(body) - at:,} bytes of the body are left")
        inputs.append(_tensor(fields, bytes(binary[at : at + nbytes])))
        at += nbytes
    if at != len(body):
        raise FormatError(f"{len(body) - at:,} bytes of the body belong to no input: say so in binary_data_size")
    parameters = _parameters(head)
    check_parameters(parameters)
    return Inference(
        id=_text(head, "id", ""),
        inputs=tuple(inputs),
        outputs=tuple(map(_asked, _objects(head, "outputs") if "outputs" in head else [])),
        binary=parameters.get("binary_data_output") is True,
        timeout_s=timeout_of(parameters),
    )


def write_answer(answer: Answer, model: str) -> tuple[bytes, int | None]:
    """Return the body and the bytes of JSON in it where tensors follow."""
    outputs = [_shown(output) for output in answer.outputs]
    named = {"id": answer.id} if answer.id else {}
    head = {
        "model_name": model,
        "model_version": str(answer.version),
        **named,
        "parameters": {"depth": answer.depth, **({"degraded": True} if answer.degraded else {})},
        "outputs": outputs,
    }
    encoded = json.dumps(head, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    binary = [output.raw() for output in answer.outputs if output.binary]
    return (b"".join([encoded, *binary]), len(encoded)) if binary else (encoded, None)


def _shown(output: MadeOutput) -> dict[str, object]:
    shown: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    if output.binary:
        return {**shown, "parameters": {"binary_data_size": len(output.raw())}}
    return {**shown, "data": output.plain()}


def _asked(fields: Json) -> AskedOutput:
    parameters = _parameters(fields)
    check_parameters(parameters)
    return AskedOutput(_text(fields, "name"), classes_of(parameters), binary=parameters.get("binary_data") is True)


def _plain_tensor(fields: Json) -> GivenTensor:
    """Read a tensor whose values are in the JSON, in one dimension or in several; those of BYTES are base64."""
    name, datatype, values = _text(fields, "name"), _text(fields, "datatype"), _flat(fields)
    if datatype == "BYTES":
        try:
            images = tuple(base64.b64decode(cast(str, value), validate=True) for value in values)
        except (binascii.Error, ValueError, TypeError):
            raise FormatError(f"input {name[:80]!r}: JSON holds no bytes, so send base64 or binary_data_size") from None
        return GivenTensor(name, datatype, _shape(fields), images)
    return GivenTensor(name, datatype, _shape(fields), _numbers(values, name, datatype))


def _numbers(values: list[object], name: str, datatype: str) -> bytes:
    if datatype not in KINDS:
        return b""  # a task has no such input, which is said of its name
    given = np.array(values) if values and not any(isinstance(value, str) for value in values) else np.empty(0, "O")
    is_byte = datatype != "UINT8" or (given.dtype.kind in "iu" and given.min() >= 0 and given.max() <= 255)
    if given.dtype.kind not in KINDS[datatype] or not is_byte:
        raise FormatError(f"input {name[:80]!r} holds what is not {datatype}: send its numbers")
    with np.errstate(over="ignore"):  # what is too large for it is refused as infinite
        return given.astype(DTYPES[datatype]).tobytes()


def _tensor(fields: Json, raw: bytes) -> GivenTensor:
    name, datatype = _text(fields, "name"), _text(fields, "datatype")
    content = split_elements(raw, name[:80]) if datatype == "BYTES" else raw
    return GivenTensor(name, datatype, _shape(fields), content)


def _flat(fields: Json) -> list[object]:
    values: object = fields.get("data")
    if not isinstance(values, list):
        raise FormatError(f"input {str(fields.get('name'))[:80]!r} has no data: send a list, or binary_data_size")
    for _ in range(MOST_DEPTH):
        if not any(isinstance(value, list) for value in values):
            return values
        if not all(isinstance(value, list) for value in values):
            break
        values = list(chain.from_iterable(values))
    raise FormatError(f"input {str(fields.get('name'))[:80]!r} is not a tensor: send lists of one depth, at most 8")


def _shape(fields: Json) -> tuple[int, ...]:
    shape = fields.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size < 1 << 40 for size in shape) or len(shape) > 8:
        raise FormatError(f"shape {str(shape)[:80]} of {str(fields.get('name'))[:80]!r}: give a list of sizes")
    return tuple(shape)


def _object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError("the request is not JSON: send the object of POST /v2/models/NAME/infer") from None
    if not isinstance(value, dict):
        raise FormatError("the request is not a JSON object: send the one of POST /v2/models/NAME/infer")
    return value


def _objects(fields: Json, name: str) -> list[Json]:
    values = fields.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise FormatError(f"{name} are no list of objects: send one object for each")
    return values


def _parameters(fields: Json) -> Mapping[str, Any]:
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise FormatError("parameters are no object: send names with their values")
    return parameters


def _text(fields: Json, name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise FormatError(f"{name} {str(value)[:80]!r} is not text: send a string")
    return value
