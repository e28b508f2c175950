"""Ask one or many tasks for all images of a source, over Ray, and write one row for each image."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onetrunk.many.prediction_rows import Row, columns, read_rows, writer_of
from onetrunk.many.scorer import BLOCKS, ScoreSettings
from serving.addresses import absolute_catalogue, absolute_store
from serving.cluster.task_plan import DONE, Event, TaskPlan
from serving.cluster.task_pool import task_pool
from serving.cpus import usable_cores
from serving.runtime.offline import check_one_backbone
from sls.data.unlabelled import ImageListing, list_images
from store.backends.atomic_write import replace_file, sync_file, sync_folder, temporary_beside, writing
from store.errors import ConflictError, InvalidSettingError, ServerError
from store.registry.store import Store, Version

PLAN = "plan.json"
SHOWN = 100  # images without a prediction that are named

ScoreProgress = Callable[[int, int], None]
"""Hears how many images of how many are done."""


@dataclass(frozen=True)
class ScoreSummary:
    """What was done in all: `resumed` images were scored by an earlier run, `seconds` are this one's.

    `problems` names images without a prediction and says why, a hundred at most. `blocks` ran for the
    images; `shared` more would have run with each task alone, and `cut` more again with every task at full depth.
    """

    out: Path
    images: int
    failed: int
    resumed: int
    seconds: float
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    blocks: int
    shared: int
    cut: int

    @property
    def images_per_second(self) -> float:
        return (self.images - self.resumed) / self.seconds if self.seconds else 0.0


def score(
    store: Store,
    refs: Sequence[str],
    data: str | Path,
    *,
    out: str | Path,
    top: int = 1,
    logits: bool = False,
    dtype: str = "auto",
    device: str = "cpu",
    catalogue: str | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    resume: bool = False,
    progress: ScoreProgress | None = None,
) -> ScoreSummary:
    """Write the predictions of the tasks for every image of a folder, a tar or a Parquet file to `out`.

    `out` is .parquet, .csv or .jsonl, and is there once it is whole. An image that has no prediction has a row with
    its error. Blocks below the first that a task adapts run once for each image, however many tasks there are. There
    is an engine for each core, or for each of `workers`, in a process of Ray's, here or on the cluster at
    `ray_address`; 0 scores in this process, as is done with one part, and on a GPU. With `resume`, a run that was
    ended goes on from the parts that it finished, with the versions that it began with.

    Raises `InvalidSettingError` where `out` exists, `ConflictError` where it was begun with other inputs, and the
    errors of the store, of the refs and of the source before anything is scored.
    """
    path = _checked(out, refs)
    listing = list_images(data)
    versions = {ref: store.resolve(ref) for ref in refs}
    folder = path.with_name(f"{path.name}.parts")
    pinned = _begin(folder, _inputs(listing, refs, top=top, logits=logits, dtype=dtype), versions, resume=resume)
    versions = {ref: store.resolve(name) for ref, name in pinned.items()}
    check_one_backbone(list(versions.values()))
    paths = [folder / f"{number:06}.jsonl" for number in range(len(listing.parts))]
    waiting = [number for number, part in enumerate(paths) if not part.exists()]
    count = _workers(workers, ray_address, len(waiting), device)
    settings = ScoreSettings(
        absolute_store(store.url),
        absolute_catalogue(catalogue),
        pinned,
        str(folder.resolve()),
        top,
        logits,
        dtype,
        device,
        None if count == 0 else 1,
    )
    plan = TaskPlan("onetrunk.many.scorer:make_scorer", asdict(settings), count, actors=True, ray_address=ray_address)
    began = time.monotonic()
    _score_parts(plan, listing, waiting, paths, progress)
    seconds, failures = time.monotonic() - began, _Failures()
    with _whole(path) as temporary:
        rows = failures.counted(read_rows(paths))
        writer_of(path)(temporary, columns(refs, top=top, logits=logits), rows, _facts(versions))
    blocks = _blocks(list(versions.values()), listing.images - failures.count, int((folder / BLOCKS).read_text()))
    shutil.rmtree(folder)
    resumed = listing.images - sum(listing.parts[number].count for number in waiting)
    return ScoreSummary(
        path, listing.images, failures.count, resumed, seconds, tuple(failures.named), listing.notes, *blocks
    )


def _facts(versions: Mapping[str, Version]) -> Mapping[str, str]:
    return {"onetrunk.versions": json.dumps({ref: version.digest for ref, version in versions.items()})}


def _checked(out: str | Path, refs: Sequence[str]) -> Path:
    path = Path(out)
    writer_of(path)
    if path.exists():
        raise InvalidSettingError(f"{path} exists: remove it, or give another `out=`")
    if not refs or len(set(refs)) < len(refs):
        raise InvalidSettingError(f"refs {list(refs)}: give at least one, and each once")
    return path


def _score_parts(
    plan: TaskPlan,
    listing: ImageListing,
    waiting: Sequence[int],
    paths: Sequence[Path],
    progress: ScoreProgress | None,
) -> None:
    """Score the parts that are not there yet, wherever there is room."""
    if not waiting:
        return
    done = listing.images - sum(listing.parts[number].count for number in waiting)
    with task_pool(plan) as pool:
        for number in waiting:
            pool.submit(number, {"part": listing.parts[number].to_dict(), "name": paths[number].name})
        for event in pool.events():
            if event.kind != DONE:
                raise _lost(event, listing)
            done += event.value["images"]
            if progress is not None:
                progress(done, listing.images)


@dataclass
class _Failures:
    """The rows without a prediction, of which the first are named."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def counted(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if row["error"] is not None:
                self.count += 1
                if len(self.named) < SHOWN:
                    self.named.append(f"{row['image']}: {row['error']}")
            yield row


def _inputs(listing: ImageListing, refs: Sequence[str], **asked: object) -> str:
    """Return a digest of all that the rows depend on, but for the versions."""
    parts = [part.to_dict() for part in listing.parts]
    return hashlib.sha256(json.dumps([listing.state, parts, list(refs), asked], sort_keys=True).encode()).hexdigest()


def _begin(folder: Path, inputs: str, versions: Mapping[str, Version], *, resume: bool) -> Mapping[str, str]:
    """Begin the folder of the parts, or go on with it; return the versions, as TASK:NUMBER, that the run takes."""
    plan = folder / PLAN
    if plan.exists():
        begun = json.loads(plan.read_bytes())
        if not resume:
            raise ConflictError(f"{folder} has parts of a run that was ended: go on with `resume=True`, or remove it")
        if begun["inputs"] != inputs:
            raise ConflictError(f"{folder} was begun with other images, refs or settings: remove it to begin again")
        pinned: Mapping[str, str] = begun["versions"]
        return pinned
    pinned = {ref: f"{version.task}:{version.number}" for ref, version in versions.items()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(plan, json.dumps({"inputs": inputs, "versions": pinned}).encode())
    return pinned


def _workers(workers: int | None, ray_address: str | None, parts: int, device: str) -> int | None:
    """Return how many engines score; None leaves it to the cluster, 0 is for one in this process."""
    if workers is not None and workers < 0:
        raise InvalidSettingError(f"{workers} workers: give a number from 0, which scores in this process")
    if workers is not None or ray_address is not None:
        return workers
    return 0 if parts < 2 or device != "cpu" else min(usable_cores(), parts)


def _lost(event: Event, listing: ImageListing) -> ServerError:
    part = listing.parts[event.job]
    return ServerError(f"a part of {part.path} was not scored ({event.value['message']}): go on with `resume=True`")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name beside the path; the file there gets the path at the end, durably."""
    with writing(path), temporary_beside(path) as temporary:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)


def _blocks(versions: Sequence[Version], images: int, row_blocks: int) -> tuple[int, int, int]:
    """Return the blocks that ran, those that sharing saved, and those that cutting saved."""
    depths = sum(version.manifest.depth for version in versions)
    whole = sum(version.manifest.prune_index.blocks for version in versions)
    return images * row_blocks, images * (depths - row_blocks), images * (whole - depths)
