"""Is everything still what it was when it was published?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial

from store.blobs import FolderBlobs
from store.catalogue import Catalogue
from store.errors import FormatError, IntegrityError
from store.files import Layout
from store.records import Blob
from store.uses import read_backbone_record, read_manifest, uses


@dataclass(frozen=True)
class Finding:
    """One fault: the file, what it is for (empty where nothing names it), and a line that ends with the remedy."""

    path: str
    used_by: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{', '.join(self.used_by) or 'named by nothing'}: {self.problem}"


def audit(catalogue: Catalogue, blobs: FolderBlobs, layout: Layout) -> list[Finding]:
    """Hash every blob, named or not, decode every record, and follow the history from its start."""
    named: defaultdict[Blob, list[str]] = defaultdict(list)
    for use in uses(catalogue, blobs):
        named[use.blob].append(str(use))
    known = {blob.sha256 for blob in named}
    unnamed = (Blob(f.sha256, f.nbytes) for f in layout.walk() if f.sha256 is not None and f.sha256 not in known)
    problems = {blob: problem for blob in (*named, *unnamed) if (problem := _problem(partial(blobs.get, blob)))}
    damaged = [Finding(str(blobs.path(blob)), tuple(named[blob]), problem) for blob, problem in problems.items()]
    return [*damaged, *_check_records(catalogue, blobs, layout, problems.keys()), *_check_history(catalogue, layout)]


def _check_records(
    catalogue: Catalogue, blobs: FolderBlobs, layout: Layout, damaged: Container[Blob]
) -> Iterator[Finding]:
    """Find whole blobs that are not the record that they are named as: the catalogue was changed from outside."""
    for backbone in catalogue.backbones():
        if backbone.record not in damaged:
            problem = _problem(partial(read_backbone_record, blobs, backbone.record))
            if problem:
                yield Finding(str(layout.catalogue), (f"backbone {backbone.name}",), problem)
    for version in catalogue.versions():
        if version.manifest not in damaged:
            problem = _problem(partial(read_manifest, blobs, version))
            if problem:
                yield Finding(str(layout.catalogue), (f"{version.task}:{version.version}",), problem)


def _check_history(catalogue: Catalogue, layout: Layout) -> Iterator[Finding]:
    previous = "0" * 64
    for number, event in enumerate(catalogue.history(), 1):
        if event.number != number or event.previous != previous:
            problem = f"history breaks before event {event.number}: it was changed; restore the catalogue from a copy"
            yield Finding(str(layout.catalogue), (event.subject,), problem)
            return
        previous = event.sha256


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (IntegrityError, FormatError) as error:
        return str(error)
    return None
