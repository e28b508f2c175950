"""The spans that a collector gets over OTLP, of a real request."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.asgi_calls import ask
from support.oracle import make_task, open_shop, png

from serving.http.api import Api, make_api
from serving.runtime.predictor import Predictor
from serving.telemetry.recorder import Recorder
from serving.telemetry.traces import OtlpTracer
from serving.telemetry_options import TelemetryOptions
from store.errors import InvalidSettingError

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """What a collector received."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)


@pytest.fixture
def collector() -> Iterator[Collector]:
    received = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    received.spans += scope.spans
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def traced(folder: Path, collector: Collector, *, share: float) -> Iterator[Api]:
    """Give an API whose spans have arrived at the end of the block."""
    with open_shop(folder) as shop:
        made = make_task(shop.backbone, folder / "task", depth=2, classes=3)
        shop.store.publish("cars", made.folder, backbone=shop.backbone.record.name, depth=2)
        with Predictor(shop.store, dtype="float32") as predictor:
            tracer = OtlpTracer(f"http://127.0.0.1:{collector.port}", share=share, replica="r1")
            recorder = Recorder("r1", predictor.usage, tracer=tracer)
            yield make_api(predictor, shop.store, keys=False, recorder=recorder)
            recorder.settle()
            recorder.close()


def test_a_request_of_a_trace_is_a_span_of_it_with_a_span_for_each_stage(tmp_path: Path, collector: Collector) -> None:
    with traced(tmp_path, collector, share=0) as api:
        reply = ask(api, "POST", "/v1/predict/cars", body=IMAGE, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    (whole,) = [span for span in collector.spans if span.name == "POST"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    assert reply.headers["traceresponse"] == f"00-{TRACE}-{whole.span_id.hex()}-01"
    stages = {span.name: span for span in collector.spans if span.parent_span_id == whole.span_id}
    assert stages.keys() == {"decode", "load", "queue", "blocks", "head"}
    for span in stages.values():
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
    assert stages["queue"].end_time_unix_nano == pytest.approx(stages["blocks"].start_time_unix_nano, abs=2000)
    described = {attribute.key: attribute.value for attribute in whole.attributes}
    assert described["http.response.status_code"].int_value == 200
    assert [value.string_value for value in described["onetrunk.versions"].array_value.values] == ["cars:1"]
    assert described["onetrunk.request_id"].string_value == reply.headers["x-request-id"]


def test_a_client_that_does_not_record_is_not_recorded_and_without_a_word_a_share_is(
    tmp_path: Path, collector: Collector
) -> None:
    with traced(tmp_path, collector, share=1) as api:
        for flags in ("00", "01"):
            ask(api, "POST", "/v1/predict/none", body=IMAGE, headers={"traceparent": f"00-{TRACE}-{SPAN}-{flags}"})
        ask(api, "POST", "/v1/predict/none", body=IMAGE)
        ask(api, "GET", "/readyz")
        ask(api, "GET", "/v1/statistics")
    assert [span.name for span in collector.spans] == ["POST", "POST"]
    assert sum(span.trace_id.hex() == TRACE for span in collector.spans) == 1


def test_a_collector_that_is_not_an_address_is_refused_before_anything_is_started() -> None:
    assert TelemetryOptions(traces="http://127.0.0.1:4318", trace_share=1).metric_tasks == 20
    for wrong in ({"traces": "localhost:4318"}, {"traces": "http://x", "trace_share": 2}, {"metric_tasks": -1}):
        with pytest.raises(InvalidSettingError, match=r"collector|share|tasks"):
            TelemetryOptions(**wrong)
