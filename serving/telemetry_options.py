"""What a server tells of itself beyond its routes: where its log goes, and its traces; see docs/observing.md."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from store.errors import InvalidSettingError

TRACE_SHARE, METRIC_TASKS = 0.01, 20
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@dataclass(frozen=True)
class TelemetryOptions:
    """`log` is where a line of JSON for each request goes: a file, `-` for standard output, None for nowhere.

    `traces` is the address of an OpenTelemetry collector, which gets `trace_share` of the requests whose clients do not
    say; `metric_tasks` is how many tasks have metrics of their own.
    """

    log: str | Path | None = None
    traces: str | None = None
    trace_share: float = TRACE_SHARE
    metric_tasks: int = METRIC_TASKS

    def __post_init__(self) -> None:
        if not 0 <= self.trace_share <= 1:
            raise InvalidSettingError(f"traces of a share of {self.trace_share:g}: give a number from 0 to 1")
        if self.metric_tasks < 0:
            raise InvalidSettingError(f"metrics of {self.metric_tasks} tasks: give a number from 0")
        if self.traces is None:
            return
        if not self.traces.startswith(("http://", "https://")):
            raise InvalidSettingError(f"collector {self.traces[:200]!r}: write its address as http://HOST:4318")
        if not has_exporter():
            raise InvalidSettingError("traces need OpenTelemetry's exporter: `pip install onetrunk[traces]`")


def has_exporter() -> bool:
    try:
        return importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        return False
