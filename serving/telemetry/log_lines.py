"""A request as one line of JSON."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping

from serving.runtime.choices import Choice
from serving.telemetry.log_sink import MOST_PATH, iso
from serving.telemetry.request_ids import parse_traceparent
from serving.telemetry.request_record import RequestRecord
from store.errors import OnetrunkError

MOST_CAUSE = 1000
MOST_FRAMES = 10
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # `json.dumps` would make one for each line


def log_line(record: RequestRecord, seconds: float, stages: Mapping[str, float], *, replica: str) -> str:
    """Return the line, whose fields docs/observing.md lists."""
    line: dict[str, object] = {
        "time": iso(record.at),
        "request_id": record.id,
        "status": record.status,
        "ms": milliseconds(seconds),
        "method": record.method,
        "path": record.path[:MOST_PATH],
        "tenant": record.tenant,
    }
    if record.caller is not None and record.caller.key.id:
        line["key"] = record.caller.key.id
    answers = [_answer_of(choice) for choice in record.choices]
    if len(answers) == 1:
        line |= answers[0]
    elif answers:
        line["answers"] = answers
    if record.times:
        line["images"] = record.images
        line["block_seconds"] = round(record.engine_s, 6)
        line |= {f"{stage}_ms": milliseconds(took) for stage, took in stages.items()}
    line |= {"received": record.received, "sent": record.sent, "replica": replica}
    if (trace := parse_traceparent(record.traceparent)) is not None:
        line["trace_id"] = trace.trace_id
    if record.cause is not None:
        line |= describe(record.cause, status=record.status)
    return ENCODER.encode(line)


def _answer_of(choice: Choice) -> dict[str, object]:
    version = choice.version
    answer: dict[str, object] = {"task": version.task, "version": version.number, "digest": version.digest}
    answer["depth"] = version.manifest.depth
    return answer if choice.split is None else {**answer, "alias": choice.split.alias, "split": choice.part}


def describe(cause: BaseException, *, status: int) -> dict[str, object]:
    """Return why a request failed; of a mistake of the server, also where."""
    described: dict[str, object] = {"error": type(cause).__name__, "cause": str(cause)[:MOST_CAUSE]}
    if status >= 500 and not isinstance(cause, OnetrunkError) and cause.__traceback__ is not None:
        frames = traceback.extract_tb(cause.__traceback__)[-MOST_FRAMES:]
        described["traceback"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return described


def milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
