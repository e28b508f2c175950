"""Notes every request of a replica: counts it, logs it, and remembers why the last ones failed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.runtime.engine_usage import EngineUsage
from serving.telemetry.counters import RECENT_S, RequestCounters
from serving.telemetry.log_lines import log_line
from serving.telemetry.log_sink import LogSink
from serving.telemetry.paths import PROBES
from serving.telemetry.request_record import KEY, RequestRecord

MOST_ERRORS = 100
SETTLE_S, MOST_ENDED = 0.05, 1000
SAMPLE_S = 1.0
MOST_TENANTS, MOST_TASKS = 100, 20
"""Series of a metric that has one for each tenant, or for each task."""


@dataclass(frozen=True)
class FailedRequest:
    """A request that got no answer: `kind` and `message` are what its caller read, the rest is for the operator."""

    at: float
    request_id: str
    tenant: str
    status: int
    method: str
    path: str
    kind: str
    message: str
    error: str
    cause: str


@dataclass(frozen=True)
class Sample:
    """What had been done at a time, for rates."""

    at: float
    requests: int
    row_blocks: int
    busy_s: float


class Tracer(Protocol):
    """Records some of the requests as traces."""

    def begin(self, record: RequestRecord) -> None: ...
    def end(self, record: RequestRecord, seconds: float) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Used by the event loop alone; `usage` is the engine's."""

    def __init__(
        self,
        replica: str,
        usage: EngineUsage,
        *,
        tenants: int = MOST_TENANTS,
        tasks: int = MOST_TASKS,
        log: LogSink | None = None,
        tracer: Tracer | None = None,
        adds_ids: bool = True,
    ) -> None:
        self.replica = replica
        self.counters = RequestCounters(tenants=tenants, tasks=tasks)
        self.log, self._tracer, self._adds_ids = log, tracer, adds_ids
        self.server_errors: deque[FailedRequest] = deque(maxlen=MOST_ERRORS)
        self.client_errors: deque[FailedRequest] = deque(maxlen=MOST_ERRORS)
        self._ended: list[RequestRecord] = []
        self._scheduled = False
        self.started = time.time()
        self._usage = usage
        self._samples: deque[Sample] = deque([Sample(self.started, 0, 0, 0.0)], maxlen=int(2 * RECENT_S / SAMPLE_S))

    def begin(self, scope: MutableMapping[str, Any], path: str) -> RequestRecord:
        """Return the record of a request, which its scope holds from now on."""
        record = RequestRecord(scope, path)
        scope[KEY] = record
        if self._tracer is not None:
            self._tracer.begin(record)
        return record

    def headers(self, record: RequestRecord) -> list[tuple[bytes, bytes]]:
        """Return what the answer says of the request."""
        headers = [(b"x-request-id", record.id.encode())] if self._adds_ids or record.has_new_id else []
        if record.span is not None:
            headers.append((b"traceresponse", record.span.traceparent))
        return headers

    def end(self, record: RequestRecord) -> None:
        """Note that a request is over; it is counted and logged soon, together with others.

        After a call of the engine, the caches hold little of what counts: one request alone takes several times as
        long. One that failed is counted at once, as its error holds its body.
        """
        record.seconds = time.perf_counter() - record.begun
        if record.path in PROBES and record.status < 400:
            return
        self._ended.append(record)
        if record.cause is not None or len(self._ended) >= MOST_ENDED:
            self.settle()
        self._settle_later()

    def settle(self) -> None:
        """Count and log the requests that are over, and write the lines that wait."""
        ended, self._ended = self._ended, []
        for record in ended:
            self._settle(record)
        if self.log is not None:
            self.log.flush()

    def _settle(self, record: RequestRecord) -> None:
        seconds, stages = record.seconds, record.stages()
        self.counters.count(record, seconds, stages)
        if record.at + seconds >= self._samples[-1].at + SAMPLE_S:
            self._samples.append(self.sample(record.at + seconds))
        if record.cause is not None and record.status >= 400:
            self._remember(record)
        if self.log is not None:
            self.log.put(log_line(record, seconds, stages, replica=self.replica))
        if self._tracer is not None:
            self._tracer.end(record, seconds)

    def _settle_later(self) -> None:
        waits = self._ended or (self.log is not None and self.log.waiting)
        if waits and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(SETTLE_S, self._settle_now)

    def _settle_now(self) -> None:
        self._scheduled = False
        self.settle()
        self._settle_later()

    def close(self) -> None:
        """Send the traces that wait; the log's last lines are written by the event loop."""
        if self._tracer is not None:
            self._tracer.close()

    def sample(self, at: float) -> Sample:
        """Return what has been done by now."""
        return Sample(at, self.counters.finished, self._usage.row_blocks, self._usage.busy_s)

    def sample_before(self, at: float) -> Sample:
        """Return the last sample that is not younger, the first one where all are."""
        older = [sample for sample in self._samples if sample.at <= at]
        return older[-1] if older else self._samples[0]

    def _remember(self, record: RequestRecord) -> None:
        failed = FailedRequest(
            record.at,
            record.id,
            record.tenant,
            record.status,
            record.method,
            record.path[:200],
            record.problem[0],
            record.problem[1][:500],
            type(record.cause).__name__,
            str(record.cause)[:500],
        )
        (self.server_errors if record.status >= 500 else self.client_errors).append(failed)
