"""A server's statistics as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onetrunk.rendering.tables import Record, to_table

MOST_TENANTS, MOST_TASKS, MOST_ERRORS = 8, 8, 6
STAGES = ("total", "receive", "decode", "load", "queue", "blocks", "head")
Statistics = Mapping[str, Any]


def server_view(statistics: Statistics, *, width: int) -> str:
    """Return what `GET /v1/statistics` answered as a head line and tables; a tenant's has fewer of them."""
    tables: dict[str, list[Record]] = {
        "replicas": [replica(row) for row in statistics.get("replicas", ())],
        "latency, ms, last minute": [stage(name, statistics["latency_ms"][name]) for name in STAGES],
        "tenants, since the start": [dict(row) for row in statistics["tenants"][:MOST_TENANTS]],
        "tasks, since the start": [dict(row) for row in statistics["tasks"][:MOST_TASKS]],
        "last errors": [error(row) for row in statistics["errors"][:MOST_ERRORS]],
    }
    parts = [head(statistics)]
    parts += [f"{title}\n{to_table(rows, width=width)}" for title, rows in tables.items() if rows]
    return "\n\n".join(parts)


def head(statistics: Statistics) -> str:
    requests = statistics["requests"]
    shown = [f"{statistics['at'][11:19]} UTC", f"{requests['per_s']:g} requests/s"]
    if "engine" in statistics:
        engine, queue, cache = statistics["engine"], statistics["queue"], statistics["cache"]
        shown += [f"{engine['blocks_per_s']:g} blocks/s", f"engine {engine['busy_share']:.0%} busy"]
        shown += [f"{queue['waiting']} waiting", f"{queue['decoding']} to decode"]
        shown += [] if cache["hit_share"] is None else [f"{cache['hit_share']:.1%} in memory"]
        saved = sum(engine["blocks_saved_by_depth"].values())
        shown += [f"{saved:,} blocks saved"] if saved else []
        missing = statistics["replicas_missing"]
        shown += [f"{missing} replica{'s' * (missing > 1)} did not answer"] if missing else []
    else:
        shown.append(f"tenant {statistics['tenant']}")
    lately = ", ".join(f"{count:,} × {status}" for status, count in requests["by_status_lately"].items())
    return " · ".join([*shown, *([lately] if lately else [])])


def replica(row: Statistics) -> Record:
    return {
        "replica": row["replica"],
        "node": row["node"],
        "up": duration(row["uptime_s"]),
        "requests/s": row["requests_per_s"],
        "blocks/s": row["blocks_per_s"],
        "busy": f"{row['busy_share']:.0%}",
        "waiting": row["waiting"],
        "decoding": row["decoding"],
        "tasks": row["cache_tasks"],
        "cache_nbytes": row["cache_nbytes"],
        "memory_nbytes": row["memory_nbytes"],
        "store": "answers" if row["store_answers"] else f"away {duration(row['store_age_s'])}",
    }


def stage(name: str, quantiles: Mapping[str, float | None]) -> Record:
    times = {key: "–" if quantiles[key] is None else f"{quantiles[key]:.1f}" for key in ("p50", "p90", "p99", "max")}
    return {"stage": name, "count": quantiles["count"], **times}


def error(row: Statistics) -> Record:
    tenant = {"tenant": row["tenant"]} if "tenant" in row else {}
    why = str(row.get("cause") or f"{row['error']}: {row['message']}")
    return {
        "at": row["at"][11:19],
        "status": row["status"],
        **tenant,
        "request id": row["request_id"],
        "why": why[:160],
    }


def duration(seconds: float) -> str:
    units: Sequence[tuple[str, int]] = (("d", 86400), ("h", 3600), ("min", 60))
    for unit, length in units:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
