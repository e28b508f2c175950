"""The storage report as sections of text and tables, for a terminal, Markdown and HTML."""

from __future__ import annotations

from onetrunk.rendering.html import Section
from onetrunk.rendering.tables import Record, size
from store.accounting.report import StorageReport


def title(report: StorageReport) -> str:
    return f"{len(report.tasks)} tasks on {len(report.backbones)} shared backbone{'s' * (len(report.backbones) != 1)}"


def sections(report: StorageReport) -> list[Section]:
    return [
        Section("Storage of the same tasks", _ratio(report), _comparison(report)),
        Section("Bytes of each task", "Bytes of each task's latest version, beside the backbone.", _tasks(report)),
        Section("Where every byte is", _identity(report), _places(report)),
    ]


def _ratio(report: StorageReport) -> str:
    if not report.tasks:
        return "No task is published yet."
    share = report.comparison.nbytes / report.comparison.form("full_copies_fp32").nbytes
    return (
        f"The store takes {share:.1%} of one full float32 copy per task; "
        f"the tasks run {report.mean_depth:.1f} blocks on average."
    )


def _comparison(report: StorageReport) -> list[Record]:
    ours = report.comparison.nbytes
    rows: list[dict[str, object]] = [{"form": "this store, all files", "nbytes": ours, "less_here_from_tasks": None}]
    rows += [
        {"form": form.title, "nbytes": form.nbytes, "less_here_from_tasks": form.break_even_tasks}
        for form in report.comparison.forms
    ]
    return [{**row, "bytes": row["nbytes"], "ratio": _times(row["nbytes"], ours)} for row in rows]


def _times(nbytes: object, whole: int) -> str:
    assert isinstance(nbytes, int)
    return f"{nbytes / whole:.2f}x"


def _tasks(report: StorageReport) -> list[Record]:
    return [
        {
            "task": task.task,
            "version": task.version,
            "depth": f"{task.depth} of {task.blocks}",
            "tensors_nbytes": task.payload_nbytes,
            "headers_nbytes": task.header_nbytes,
            "manifest_nbytes": task.manifest_nbytes,
            "saved_by_cut_nbytes": task.saved_by_cut_nbytes,
            "freed_if_deleted_nbytes": task.freed_if_deleted_nbytes,
        }
        for task in report.tasks
    ]


def _identity(report: StorageReport) -> str:
    places = report.places
    parts = {"live": places.live_nbytes, "reclaimable": places.reclaimable_nbytes, "garbage": places.garbage_nbytes}
    total = sum(parts.values()) + places.overhead_nbytes
    assert total == report.total_nbytes
    return (
        f"Total {report.total_nbytes} B = "
        + " + ".join(f"{name} {nbytes} B" for name, nbytes in parts.items())
        + f" + overhead {places.overhead_nbytes} B. In memory with every task resident: "
        f"{size(report.resident.shared_nbytes)}, as copies {size(report.resident.copies_nbytes)}."
    )


def _places(report: StorageReport) -> list[Record]:
    kinds = {
        "live": "referenced by a version or a backbone",
        "reclaimable": "unreferenced blobs: `onetrunk gc` frees them",
        "garbage": "files that do not belong to the store, orphaned temporary files, and blobs in quarantine",
        "overhead": "catalogue, journal and identity",
    }
    return [
        {"kind": kind, "what": what, "bytes": getattr(report.places, f"{kind}_nbytes")} for kind, what in kinds.items()
    ]
