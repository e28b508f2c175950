"""The tensors of an answer, made of the predictions of the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serving.oip.inference import AskedOutput, Inference, MadeOutput
from store.errors import FormatError

LOGITS, SCORES, LABEL = "logits", "scores", "label"
DATATYPES = {LOGITS: "FP32", SCORES: "FP32", LABEL: "BYTES"}


def check_outputs(asked: Sequence[AskedOutput]) -> None:
    """Raise `FormatError` where a task has no such output."""
    for output in asked:
        if output.name not in DATATYPES:
            raise FormatError(f"output {output.name[:80]!r} is not an output of a task: ask for {', '.join(DATATYPES)}")
        if output.classes and output.name == LABEL:
            raise FormatError(f"output {LABEL!r} has no values to classify by: ask for {LOGITS} or {SCORES}")


def make_outputs(inference: Inference, logits: Tensor, labels: Sequence[str]) -> list[MadeOutput]:
    """Return the outputs that are asked for, or all, of logits (images, classes) float32."""
    asked = inference.outputs or [AskedOutput(name, binary=inference.binary) for name in DATATYPES]
    return [_make(output, logits, labels) for output in asked]


def _make(output: AskedOutput, logits: Tensor, labels: Sequence[str]) -> MadeOutput:
    if output.name == LABEL:
        best = [labels[index].encode() for index in logits.argmax(dim=1).tolist()]
        return MadeOutput(LABEL, "BYTES", (len(best),), best, output.binary)
    values = logits if output.name == LOGITS else logits.softmax(dim=1)
    if not output.classes:
        return MadeOutput(output.name, "FP32", tuple(values.shape), values.contiguous().numpy(), output.binary)
    greatest, indices = (each.tolist() for each in torch.topk(values, min(output.classes, len(labels)), dim=1))
    rows = [list(zip(*row, strict=True)) for row in zip(greatest, indices, strict=True)]
    named = [f"{value!r}:{index}:{labels[index]}".encode() for row in rows for value, index in row]
    return MadeOutput(output.name, "BYTES", (len(rows), len(rows[0])), named, output.binary)
