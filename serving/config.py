"""What one application serves, as `deploy/serve.yaml` and `serve` give it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serving.scheduling.scheduler import DEFAULT_SCHEDULE
from serving.telemetry_options import METRIC_TASKS, TRACE_SHARE


class ServeConfig(BaseModel):
    """Arguments of the application; with `keys`, every request needs an API key."""

    model_config = ConfigDict(extra="forbid")

    store: str
    catalogue: str | None = None
    backbone: str | list[str] | None = None
    """Serve the tasks of these alone; None: of every backbone of the store."""
    dtype: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    batch_invariant: bool = False
    schedule: str = DEFAULT_SCHEDULE
    keys: bool = False
    rate_limit: float | None = None
    """Images a second of one API key, or of all callers without keys, that this replica answers at most."""
    grpc: str | None = None
    """Where each replica listens for gRPC too, as HOST:PORT, all replicas of a machine on one port; None: nowhere."""
    session_secret: str | None = Field(default=None, repr=False)
    """Signs the sessions of the console; every replica needs the same. Made when the application starts."""
    log: str | None = "-"
    """Where a line for each request goes: - is the replica's standard output, None nowhere."""
    traces: str | None = None
    """The address of an OpenTelemetry collector, such as http://127.0.0.1:4318; None: no traces."""
    trace_share: float = TRACE_SHARE
    """Of the requests whose client does not say whether they are recorded."""
    metric_tasks: int = METRIC_TASKS
    """Tasks that have a series of their own in the metrics: the busiest."""
