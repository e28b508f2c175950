"""The storage report as sections of text, tables and pictures, for a terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onetrunk.rendering.section import Section
from onetrunk.rendering.tables import Record

if TYPE_CHECKING:
    from store.accounting.pictures.drawing import Picture
    from store.accounting.report import StorageReport
    from store.accounting.rows import TaskReport

LARGEST = 10
PLACES = {
    "live": "referenced by a version or a backbone",
    "reclaimable": "unreferenced blobs: `onetrunk gc` frees them, once no lease holds them",
    "garbage": "files that do not belong to the store, orphaned temporary files, and blobs in quarantine",
    "overhead": "catalogue, journal and identity",
}
NO_TENANT = "(no tenant)"


def title(report: StorageReport) -> str:
    return f"{len(report.tasks)} tasks on {len(report.backbones)} shared backbone{'s' * (len(report.backbones) != 1)}"


def sections(report: StorageReport, *, most: int | None = None) -> list[Section]:
    """Return every section; a table of tasks has at most so many rows, the largest first where it is cut."""
    return [
        *problem_sections(report),
        storage_section(report),
        Section("How the other forms are counted", COUNTING, _formulas(report)),
        Section("Where every byte is", identity(report), _places(report)),
        Section("By tenant, method, backbone, depth and type", GROUPING, _groups(report)),
        Section("Backbones", "Weights of a backbone that lies elsewhere take nothing here.", _backbones(report)),
        Section("Memory and compute", compute(report), _memory(report)),
        Section("Growth", f"What the history says, by the {report.period}; the last {LARGEST}.", _growth(report)),
        Section(f"The {LARGEST} largest tasks", "All versions of a task, each blob once.", _largest(report)),
        Section("Bytes of each task", _told(report, most), _tasks(report, most)),
    ]


def pictured(report: StorageReport, pictures: Sequence[Picture], most: int) -> list[Section]:
    """Return the sections with a picture before the table that it belongs to."""
    drawn = [Section(p.title, p.text, svg=p.svg, data=p.rows, name=p.name) for p in pictures]
    tables = sections(report, most=most)
    return [*tables[: len(problem_sections(report)) + 1], *drawn, *tables[len(problem_sections(report)) + 1 :]]


def problem_sections(report: StorageReport) -> list[Section]:
    rows: list[Record] = [problem._asdict() for problem in report.problems[:LARGEST]]
    text = f"{len(report.problems)} things are not in the figures below, or not divided"
    text += f"; the first {LARGEST}." if len(report.problems) > LARGEST else "."
    changed = Section("The store changed while it was counted", "Run the report again for figures of one moment.")
    return [Section("What could not be seen", text, rows)] * bool(rows) + [changed] * report.changed


def storage_section(report: StorageReport) -> Section:
    return Section("Storage of the same tasks", _ratio(report), _comparison(report))


COUNTING = "K is the number of tasks; the terms are the sums over their latest versions."
GROUPING = "Each blob of a group counts once; unique bytes are of blobs that no version outside the group references."


def _ratio(report: StorageReport) -> str:
    if not report.comparison.tasks:
        return "No task is published yet." if not report.tasks else "No task can be compared: see what was not seen."
    share = report.comparison.nbytes / report.comparison.form("full_copies_fp32").nbytes
    return (
        f"The store takes {share:.2%} of one full float32 copy per task, with every file and all versions; "
        f"the tasks run {report.mean_depth:.1f} blocks on average. Metadata takes "
        f"{report.metadata_nbytes / max(1, report.payload_nbytes):.2%} of the tensors of adapters and heads."
    )


def _comparison(report: StorageReport) -> list[Record]:
    ours = report.comparison.nbytes
    first = {"form": "this store, all files", "nbytes": ours, "bytes": ours, "ratio": _times(ours, ours)}
    rows: list[Record] = [{**first, "less_here_from": "–", "formula": ""}]
    for form in report.comparison.forms:
        row = {"form": form.title, "nbytes": form.nbytes, "bytes": form.nbytes, "ratio": _times(form.nbytes, ours)}
        tasks = form.break_even_tasks
        rows.append({**row, "less_here_from": "never" if tasks is None else _tasks_of(tasks), "formula": form.formula})
    return rows


def _tasks_of(number: int) -> str:
    return f"{number:,} task{'s' * (number != 1)}"


def _times(nbytes: int, whole: int) -> str:
    return f"{nbytes / whole:.2f}x" if whole else "–"


def _formulas(report: StorageReport) -> list[Record]:
    return [
        {
            "form": form.title,
            "formula": form.formula,
            "terms": ", ".join(f"{name} = {value:,}" for name, value in form.terms.items()),
            "assumptions": form.assumptions,
            "source": form.source,
        }
        for form in report.comparison.forms
    ]


def identity(report: StorageReport) -> str:
    """Return the identity of the bytes, checked."""
    places = report.places
    parts = {name: getattr(places, f"{name}_nbytes") for name in PLACES}
    assert sum(parts.values()) == places.physical_nbytes
    text = f"Physical {places.physical_nbytes} B = "
    text += " + ".join(f"{name} {nbytes} B" for name, nbytes in parts.items())
    text += f", in {places.files:,} files."
    return text + " The catalogue is on a server, which counts its own." * report.catalogue_elsewhere


def _places(report: StorageReport) -> list[Record]:
    places = report.places
    rows: list[Record] = [
        {"kind": kind, "what": what, "bytes": getattr(places, f"{kind}_nbytes")} for kind, what in PLACES.items()
    ]
    parts = {
        "reclaimable: removed": ("needed to restore removed versions", places.removed_nbytes),
        "reclaimable: leased": ("held by leases of servers and publishes", places.leased_nbytes),
        "garbage: orphaned": ("orphaned temporary files, which `onetrunk gc` deletes", places.orphaned_nbytes),
        "garbage: quarantined": ("set aside as damaged", places.quarantined_nbytes),
        "overhead: catalogue": ("the catalogue", places.catalogue_nbytes),
        "overhead: journal": ("the journal", places.journal_nbytes),
    }
    return rows + [{"kind": kind, "what": what, "bytes": nbytes} for kind, (what, nbytes) in parts.items() if nbytes]


def _groups(report: StorageReport) -> list[Record]:
    return [{**group._asdict(), "name": group.name or NO_TENANT} for group in report.groups]


def _backbones(report: StorageReport) -> list[Record]:
    keys = ("name", "kept_elsewhere", "blocks", "parameters", "weights_nbytes", "stored_nbytes", "tasks", "versions")
    return [{key: getattr(backbone, key) for key in keys} for backbone in report.backbones]


def compute(report: StorageReport) -> str:
    text = f"One image for each task runs {report.run_blocks:,} of {report.all_blocks:,} blocks"
    if report.run_flops is not None and report.all_flops:
        text += f", {report.run_flops / 1e9:,.1f} of {report.all_flops / 1e9:,.1f} GFLOP"
    return text + ". Memory is that of weights, with every task loaded."


def _memory(report: StorageReport) -> list[Record]:
    resident = report.resident
    forms = {
        "one backbone and all adapters, as stored": resident.shared_nbytes,
        "a whole model for each task, as stored": resident.copies_nbytes,
        "a whole model for each task, bfloat16": resident.copies_serving_nbytes,
    }
    return [{"in_memory": form, "nbytes": nbytes, "bytes": nbytes} for form, nbytes in forms.items()]


def _growth(report: StorageReport) -> list[Record]:
    return [point._asdict() for point in report.growth[-LARGEST:]]


def _largest(report: StorageReport) -> list[Record]:
    keys = ("task", "versions", "stored_nbytes", "unique_nbytes", "shared_nbytes", "freed_if_deleted_nbytes")
    ordered = sorted(report.tasks, key=lambda task: (-task.stored_nbytes, task.task))
    return [{key: getattr(task, key) for key in keys} for task in ordered[:LARGEST]]


def _told(report: StorageReport, most: int | None) -> str:
    text = "The latest version of each task by part, beside the backbone; what deleting the task frees counts all."
    cut = most is not None and len(report.tasks) > most
    return text + f" The {most} largest of {len(report.tasks):,}; CSV and JSON have all." * cut


def _tasks(report: StorageReport, most: int | None) -> list[Record]:
    tasks: Sequence[TaskReport] = report.tasks
    if most is not None and len(tasks) > most:
        tasks = sorted(tasks, key=lambda task: (-task.stored_nbytes, task.task))[:most]
    return [
        {
            "task": task.task,
            "version": task.version,
            "depth": f"{task.depth} of {task.blocks}",
            "adapter_nbytes": task.adapter_nbytes,
            "head_nbytes": task.head_nbytes,
            "header_nbytes": task.header_nbytes,
            "manifest_nbytes": task.manifest_nbytes,
            "config_nbytes": task.config_nbytes,
            "labels_nbytes": task.labels_nbytes,
            "saved_by_cut_nbytes": task.saved_by_cut_nbytes,
            "freed_if_deleted_nbytes": task.freed_if_deleted_nbytes,
        }
        for task in tasks
    ]
