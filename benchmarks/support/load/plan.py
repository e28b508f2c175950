"""A load over HTTP from a process of its own, as it is planned and as it was measured.

The client shares the cores with the server that it measures, so it says how much CPU it took.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.support.processes import environment
from serving.benchmark.quantiles import quantile

DRAIN_S = 30.0  # for the answers that are out at the end


@dataclass(frozen=True)
class Plan:
    """Who asks what, and when.

    `requests` are whole requests as they are sent; each time, one is drawn. Without `rate`, each of the connections
    sends the next request once it has its answer; with it, so many a second are due, independent of the answers, and a
    request waits for a free connection.
    """

    port: int
    requests: Sequence[bytes]
    seconds: float
    connections: int
    rate: float | None = None
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "requests": [base64.b64encode(one).decode() for one in self.requests]})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        return cls(**{**values, "requests": [base64.b64decode(one) for one in values["requests"]]})


@dataclass(frozen=True)
class Sample:
    """One request: which of the plan's, when it was due (seconds from the start), its latency and its status."""

    request: int
    due_s: float
    latency_s: float
    status: int


@dataclass(frozen=True)
class Load:
    """What a load measured, the CPU seconds that its client took, and its start by `time.monotonic`.

    `refused` counts connections that the server did not take; no request was lost with them.
    """

    samples: tuple[Sample, ...]
    seconds: float
    client_cpu_s: float
    start: float
    refused: int

    @property
    def answered(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.status == 200]

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.status != 200]

    @property
    def rate(self) -> float:
        """Answers a second, of those that came within the time."""
        return sum(sample.due_s + sample.latency_s <= self.seconds for sample in self.answered) / self.seconds

    def latency_s(self, share: float) -> float:
        return quantile([sample.latency_s for sample in self.answered], share)


def post(target: str, body: bytes, *headers: str) -> bytes:
    """Return a whole request."""
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def start_load(plan: Plan) -> Callable[[], Load]:
    """Start the load in a process; the returned function waits for its end."""
    command = [sys.executable, "-m", "benchmarks.support.load.player"]
    process = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def finish() -> Load:
        said, _ = process.communicate(timeout=plan.seconds + 4 * DRAIN_S)
        assert process.returncode == 0, "the client of the load failed"
        values = json.loads(said)
        return Load(
            tuple(Sample(*one) for one in values["samples"]),
            plan.seconds,
            values["cpu_s"],
            values["start"],
            values["refused"],
        )

    assert process.stdin is not None
    process.stdin.write(plan.to_json() + "\n")
    process.stdin.flush()
    return finish


def run_load(plan: Plan) -> Load:
    return start_load(plan)()
