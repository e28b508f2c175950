"""Requests as OpenTelemetry traces; imported only where they are asked for, as the library is an extra."""

from __future__ import annotations

import random

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from serving.runtime.request_times import RequestTimes
from serving.telemetry.paths import PROBES
from serving.telemetry.request_ids import TraceParent, parse_traceparent
from serving.telemetry.request_record import RequestRecord

PATH = "/v1/traces"


class RequestSpan:
    """The span of a request that is recorded."""

    def __init__(self, span: Span) -> None:
        self.span = span

    @property
    def traceparent(self) -> bytes:
        context = self.span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode()


class OtlpTracer:
    """Sends the spans of some requests to a collector, from a thread of its own.

    A client decides whether its requests are recorded; of those that do not say, `share` are.
    """

    def __init__(self, collector: str, *, share: float, replica: str) -> None:
        url = collector if collector.endswith(PATH) else collector.rstrip("/") + PATH
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "onetrunk", "service.instance.id": replica}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer: Tracer = self._provider.get_tracer("onetrunk")
        self._share = share

    def begin(self, record: RequestRecord) -> None:
        """Begin the request's span where it is recorded."""
        if record.path in PROBES:
            return
        parent = parse_traceparent(record.traceparent)
        if parent.sampled if parent is not None else random.random() < self._share:
            context = None if parent is None else set_span_in_context(NonRecordingSpan(context_of(parent)))
            span = self._tracer.start_span(
                record.method, context=context, kind=SpanKind.SERVER, start_time=round(record.at * 1e9)
            )
            record.span = RequestSpan(span)

    def end(self, record: RequestRecord, seconds: float) -> None:
        """End the span, and add those of the stages that the request went through."""
        if not isinstance(record.span, RequestSpan):
            return
        span, begun = record.span.span, record.begun
        zero = round(record.at * 1e9)

        def add(name: str, start: float, end: float) -> None:
            child = self._tracer.start_span(
                name, context=set_span_in_context(span), start_time=zero + round((start - begun) * 1e9)
            )
            child.end(end_time=zero + round((end - begun) * 1e9))

        for times in record.times:
            for name, start, end in stages_of(times):
                add(name, start, end)
        finished = [times.finished for times in record.times if times.finished is not None]
        if record.head_s is not None:
            add("head", max(finished), max(finished) + record.head_s)
        describe(span, record)
        span.end(end_time=zero + round(seconds * 1e9))

    def close(self) -> None:
        """Send what waits, and stop."""
        self._provider.shutdown()


def stages_of(times: RequestTimes) -> list[tuple[str, float, float]]:
    """Return each stage of an image that is over, with its start and its end."""
    ends = {"decode": times.decoded, "load": times.loaded, "queue": times.started, "blocks": times.finished}
    took = times.stages()
    return [(name, end - took[name], end) for name, end in ends.items() if end is not None and name in took]


def describe(span: Span, record: RequestRecord) -> None:
    """Say what was asked and answered, by OpenTelemetry's names where it has them."""
    span.set_attribute("http.request.method", record.method)
    span.set_attribute("url.path", record.path[:200])
    span.set_attribute("http.response.status_code", record.status)
    span.set_attribute("onetrunk.request_id", record.id)
    span.set_attribute("onetrunk.tenant", record.tenant)
    span.set_attribute("onetrunk.versions", [f"{v.task}:{v.number}" for v in record.versions[:20]])
    span.set_attribute("onetrunk.depths", [v.manifest.depth for v in record.versions[:20]])
    if record.status >= 500:
        span.set_status(StatusCode.ERROR, "" if record.cause is None else type(record.cause).__name__)


def context_of(parent: TraceParent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
