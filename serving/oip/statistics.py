"""What the replicas counted of each version, as the statistics extension has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serving.oip.metadata import Json
from serving.telemetry.counters import VersionUsage
from serving.telemetry.snapshot import Snapshot

MOST_ROWS = 10_000
STAGES = {
    "queue": ("queue",),
    "compute_input": ("receive", "decode", "load"),
    "compute_infer": ("blocks",),
    "compute_output": ("head",),
}
"""The protocol's stages, each the sum of ours; decoding and loading go on side by side."""


def model_statistics(
    snapshots: Sequence[Snapshot], *, tenant: str | None, task: str | None, number: str | None
) -> list[Json]:
    """Return a row for each version that was asked for since the replicas started, of this task and tenant alone."""
    together: dict[tuple[str, str], list[VersionUsage]] = {}
    for snapshot in snapshots:
        for key, used in snapshot.version_usage.items():
            name, _, version = key.rpartition(":")
            is_wanted = task in (None, name) and number in (None, version)
            if name and is_wanted and (tenant is None or name.startswith(f"{tenant}/")):
                together.setdefault((name, version), []).append(used)
    return [_row(name, version, usage) for (name, version), usage in sorted(together.items())[:MOST_ROWS]]


def _row(name: str, version: str, usage: Sequence[VersionUsage]) -> Json:
    answered = sum(used.requests - used.failed for used in usage)
    stages: dict[str, float] = {}
    for used in usage:
        for stage, took in used.stages.items():
            stages[stage] = stages.get(stage, 0.0) + took
    return {
        "name": name,
        "version": version,
        "last_inference": round(1000 * max(used.last_at for used in usage)),
        "inference_count": sum(used.images for used in usage),
        "execution_count": answered,
        "inference_stats": {
            "success": _duration(answered, (used.seconds for used in usage)),
            "fail": _duration(sum(used.failed for used in usage), (used.failed_s for used in usage)),
            **{kind: _duration(answered, (stages.get(stage, 0.0) for stage in ours)) for kind, ours in STAGES.items()},
        },
        "batch_stats": [],
    }


def _duration(count: int, seconds: Iterable[float]) -> Json:
    return {"count": count, "ns": round(1e9 * sum(seconds))}
