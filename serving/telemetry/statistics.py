"""What all replicas together did and do, as `GET /v1/statistics` answers it; a tenant sees what is its own alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from serving.telemetry.counters import RECENT_S, STAGES, Recent, TenantUsage
from serving.telemetry.log_lines import milliseconds
from serving.telemetry.log_sink import iso
from serving.telemetry.recorder import FailedRequest
from serving.telemetry.snapshot import Snapshot
from serving.telemetry.split_counters import PartCounts, SeriesName

FORMAT = 1
QUANTILES = (0.5, 0.9, 0.99)
MOST_ROWS, MOST_ERRORS = 100, 50
Json = dict[str, object]


def server_statistics(snapshots: Sequence[Snapshot], *, missing: int, tasks: int = MOST_ROWS) -> Json:
    """Return everything: for the operator, or everyone where there are no keys. `missing` replicas did not answer."""
    recent = [each for snapshot in snapshots for each in snapshot.recent]
    return {
        **head(snapshots, None),
        "replicas_missing": missing,
        "replicas": [replica_row(snapshot) for snapshot in sorted(snapshots, key=lambda each: each.started)],
        "queue": {
            "waiting": sum(snapshot.predictor.waiting for snapshot in snapshots),
            "decoding": sum(snapshot.predictor.decoding for snapshot in snapshots),
            "bodies_nbytes": sum(snapshot.bodies_nbytes for snapshot in snapshots),
        },
        "requests": requests(snapshots, recent),
        "latency_ms": latencies(recent),
        "engine": engine(snapshots),
        "cache": cache(snapshots),
        "tenants": tenant_rows(snapshots),
        **task_rows(snapshots, tenant=None, most=tasks),
        "splits": split_rows(snapshots, tenant=None),
        "errors": error_rows(snapshots, tenant=None),
    }


def tenant_statistics(snapshots: Sequence[Snapshot], tenant: str, *, tasks: int = MOST_ROWS) -> Json:
    """Return what the tenant's own requests were."""
    recent = [each for snapshot in snapshots for each in snapshot.recent if each.tenant == tenant]
    rows = [row for row in tenant_rows(snapshots) if row["tenant"] == tenant]
    return {
        **head(snapshots, tenant),
        "requests": {"per_s": rate_of(recent), "by_status_lately": by_status(recent)},
        "latency_ms": latencies(recent),
        "tenants": rows,
        **task_rows(snapshots, tenant=tenant, most=tasks),
        "splits": split_rows(snapshots, tenant=tenant),
        "errors": error_rows(snapshots, tenant=tenant),
    }


def head(snapshots: Sequence[Snapshot], tenant: str | None) -> Json:
    at = max(snapshot.at for snapshot in snapshots)
    return {"format": FORMAT, "at": iso(at), "tenant": tenant, "window_s": RECENT_S}


def replica_row(snapshot: Snapshot) -> Json:
    state = snapshot.predictor
    return {
        "replica": snapshot.replica,
        "node": snapshot.node,
        "pid": snapshot.pid,
        "started_at": iso(snapshot.started),
        "uptime_s": round(snapshot.at - snapshot.started, 1),
        "backbone": ", ".join(backbone.name for backbone in state.backbones),
        "dtype": state.dtype,
        "device": state.device,
        "waiting": state.waiting,
        "decoding": state.decoding,
        **rates(snapshot),
        "cache_tasks": state.cache_tasks,
        "cache_nbytes": state.cache_nbytes,
        "memory_nbytes": snapshot.memory_nbytes,
        "cpu_s": round(snapshot.cpu_s, 2),
        "store_answers": state.store.answers,
        "store_age_s": round(state.store.age_s, 1),
        "without_lease": state.store.without_lease,
    }


def rates(snapshot: Snapshot) -> dict[str, float]:
    """Return what a replica did a second, over the last minute or since it started."""
    since, now = snapshot.since, snapshot.now
    seconds = max(now.at - since.at, 1e-3)
    return {
        "requests_per_s": round((now.requests - since.requests) / seconds, 2),
        "blocks_per_s": round((now.row_blocks - since.row_blocks) / seconds, 1),
        "busy_share": round(min(1.0, (now.busy_s - since.busy_s) / seconds), 4),
    }


def requests(snapshots: Sequence[Snapshot], recent: Sequence[Recent]) -> Json:
    total: Counter[str] = Counter()
    for snapshot in snapshots:
        for (_, _, status), count in snapshot.requests.items():
            total[str(status)] += count
    return {
        "total": total.total(),
        "per_s": round(sum(rates(snapshot)["requests_per_s"] for snapshot in snapshots), 2),
        "by_status": dict(sorted(total.items())),
        "by_status_lately": by_status(recent),
    }


def by_status(recent: Iterable[Recent]) -> Mapping[str, int]:
    return dict(sorted(Counter(str(each.status) for each in recent).items()))


def rate_of(recent: Sequence[Recent]) -> float:
    return round(len(recent) / RECENT_S, 2)


def latencies(recent: Sequence[Recent]) -> Json:
    """Return quantiles of the last minute's answered predictions, in all and of each stage."""
    answered = [each for each in recent if each.status == 200]
    values = {stage: [each.stages[stage] for each in answered if stage in each.stages] for stage in STAGES}
    return {"total": quantiles([each.seconds for each in answered]), **{s: quantiles(v) for s, v in values.items()}}


def quantiles(seconds: Sequence[float]) -> Json:
    """Return quantiles that occurred, in milliseconds: the least value that so large a share does not exceed."""
    ordered = sorted(seconds)
    shown: Json = {"count": len(ordered)}
    for q in QUANTILES:
        index = -(-q * len(ordered) // 1) - 1
        shown[f"p{round(100 * q)}"] = milliseconds(ordered[int(max(0, index))]) if ordered else None
    return {**shown, "max": milliseconds(ordered[-1]) if ordered else None}


def engine(snapshots: Sequence[Snapshot]) -> Json:
    each = [rates(snapshot) for snapshot in snapshots]
    saved: Counter[int] = Counter()
    answers: Counter[int] = Counter()
    for snapshot in snapshots:
        for depth, count in snapshot.depths.items():
            answers[depth] += count
        saved.update(snapshot.saved)
    return {
        "busy_share": round(sum(rate["busy_share"] for rate in each) / len(each), 4),
        "blocks_per_s": round(sum(rate["blocks_per_s"] for rate in each), 1),
        "blocks": sum(snapshot.predictor.row_blocks for snapshot in snapshots),
        "block_seconds": round(sum(snapshot.predictor.busy_s for snapshot in snapshots), 3),
        "answers_by_depth": {str(depth): count for depth, count in sorted(answers.items())},
        "blocks_saved_by_depth": {str(depth): count for depth, count in sorted(saved.items())},
        "batch_rows": batch_rows(snapshots),
    }


def batch_rows(snapshots: Sequence[Snapshot]) -> Json:
    """Return how many batches had up to so many rows, and the mean."""
    buckets = [snapshot.predictor.batch_rows for snapshot in snapshots]
    counts = [sum(column) for column in zip(*(each.counts for each in buckets), strict=True)]
    names = [*(f"{bound:g}" for bound in buckets[0].bounds), "more"]
    batches = sum(counts)
    mean = round(sum(each.total for each in buckets) / batches, 2) if batches else None
    return {"batches": batches, "mean": mean, "up_to": dict(zip(names, counts, strict=True))}


def cache(snapshots: Sequence[Snapshot]) -> Json:
    hits = sum(snapshot.predictor.cache_hits for snapshot in snapshots)
    loads = sum(snapshot.predictor.cache_loads for snapshot in snapshots)
    return {
        "hits": hits,
        "loads": loads,
        "evictions": sum(snapshot.predictor.cache_evictions for snapshot in snapshots),
        "hit_share": round(hits / (hits + loads), 4) if hits + loads else None,
        "nbytes": sum(snapshot.predictor.cache_nbytes for snapshot in snapshots),
    }


def tenant_rows(snapshots: Sequence[Snapshot]) -> list[Json]:
    """Return what each tenant used since the replicas started, the most block-seconds first."""
    rows: dict[str, TenantUsage] = {}
    for snapshot in snapshots:
        for tenant, used in snapshot.tenant_usage.items():
            row = rows.setdefault(tenant, TenantUsage())
            for field, value in asdict(used).items():
                setattr(row, field, getattr(row, field) + value)
    ordered = sorted(rows.items(), key=lambda item: (-item[1].block_s, item[0]))
    return [
        {
            "tenant": tenant,
            "requests": row.requests,
            "failed": row.failed,
            "images": row.images,
            "block_seconds": round(row.block_s, 6),
            "received_nbytes": row.received,
            "sent_nbytes": row.sent,
        }
        for tenant, row in ordered
    ]


def task_rows(snapshots: Sequence[Snapshot], *, tenant: str | None, most: int) -> Json:
    """Return the tasks that were answered most often since the replicas started, of one tenant or of all."""
    answers: Counter[str] = Counter()
    last: dict[str, float] = {}
    for snapshot in snapshots:
        for task, used in snapshot.task_usage.items():
            if tenant is None or task.startswith(f"{tenant}/"):
                answers[task] += used.answers
                last[task] = max(used.last_at, last.get(task, 0.0))
    rows = [{"task": t, "answers": n, "last_at": iso(last[t])} for t, n in answers.most_common(most)]
    return {"tasks": rows, "tasks_left_out": len(answers) - len(rows)}


def split_rows(snapshots: Sequence[Snapshot], *, tenant: str | None) -> list[Json]:
    """Return what each version of a split alias did since the replicas started, of one tenant or of all."""
    rows: dict[SeriesName, list[PartCounts]] = {}
    for snapshot in snapshots:
        for name, part in snapshot.splits.items():
            if tenant is None or name[0].startswith(f"{tenant}/"):
                rows.setdefault(name, []).append(part)
    return [split_row(name, parts) for name, parts in sorted(rows.items())]


def split_row(name: SeriesName, parts: Sequence[PartCounts]) -> Json:
    requests, total_s = sum(part.requests for part in parts), sum(part.seconds.total for part in parts)
    return {
        "alias": name[0],
        "version": name[1],
        "part": name[2],
        "requests": requests,
        "failed": sum(part.failed for part in parts),
        "mean_ms": milliseconds(total_s / requests) if requests else None,
        "agreed": sum(part.agreed for part in parts),
        "disagreed": sum(part.disagreed for part in parts),
    }


def error_rows(snapshots: Sequence[Snapshot], *, tenant: str | None) -> list[Json]:
    """Return the last failures, the newest first; a tenant reads of its own what its clients did."""
    failed = [each for snapshot in snapshots for each in snapshot.errors if tenant in (None, each.tenant)]
    return [
        error_row(each, operator=tenant is None) for each in sorted(failed, key=lambda each: -each.at)[:MOST_ERRORS]
    ]


def error_row(failed: FailedRequest, *, operator: bool) -> Json:
    shown: Json = {
        "at": iso(failed.at),
        "request_id": failed.request_id,
        "status": failed.status,
        "method": failed.method,
        "path": failed.path,
        "error": failed.kind,
        "message": failed.message,
    }
    return {**shown, "tenant": failed.tenant, "cause": f"{failed.error}: {failed.cause}"} if operator else shown
