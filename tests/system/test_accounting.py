"""The report against the bytes themselves, for stores of any shape, on each backend and each catalogue."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import from_url
from support.model_records import Content
from support.servers import Bucket, Postgres
from support.strategies import contents, files_of, toy

from store.accounting.report import Account, account_of
from store.accounting.retention import retention
from store.accounting.rows import PARTS
from store.adapters.checkpoint import parse_checkpoint
from store.errors import OnetrunkError
from store.maintenance.garbage import collect_garbage
from store.registry.publish import PublishOptions
from store.registry.store import Store

TASKS = ("acme/roses", "acme/tulips", "poppies")
KINDS = ("publish",) * 3 + ("rm",) * 2 + ("alias", "restore", "gc", "blob", "file", "lease")
FOREIGN = ("notes.txt", "blobs/other", "quarantine/x", "journal/.0.0123456789abcdef.partial")


@dataclass(frozen=True)
class Step:
    """Something that is done to a store before it is counted."""

    kind: str
    task: str
    content: Content
    number: int


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(
            ("publish", "publish", "publish", "alias", "rm", "rm", "restore", "gc", "blob", "file", "lease")
        ),
        st.sampled_from(TASKS),
        contents,
        st.integers(1, 4),
    ),
    max_size=12,
)


def take(store: Store, step: Step) -> None:
    """Take a step; where the store refuses it, nothing has happened."""
    with suppress(OnetrunkError):
        _take(store, step)


def _take(store: Store, step: Step) -> None:
    ref = f"{step.task}:{step.number}"
    match step.kind:
        case "publish":
            checkpoint = parse_checkpoint(files_of(step.content, toy().record.id.fingerprint))
            options = PublishOptions(backbone="toy/vit", depth=1)
            store.publish_checkpoint(step.task, checkpoint, where="here", options=options)
        case "alias":
            store.set_alias(step.task, "prod", step.number)
        case "rm":
            store.remove(step.task if step.number == 4 else ref, all_versions=step.number == 4)
        case "restore":
            store.restore(step.task)
        case "gc":
            collect_garbage(store, grace_s=0 if step.number > 2 else 3600)
        case "blob":
            store.blobs.put(b"left by a publish that died" * step.number)
        case "file":
            store.backend.put(FOREIGN[step.number - 1], b"x" * step.number)
        case "lease":
            digest = store.resolve(ref).digest
            store.catalogue.lease(ref, [digest], holder="publish", expires_at=2**33, served=False)


def check_account(account: Account, sizes: dict[str, int]) -> None:
    """Compare with the files: every byte is somewhere, and what is divided adds up."""
    report, places = account.report, account.report.places
    parts = (places.live_nbytes, places.reclaimable_nbytes, places.garbage_nbytes, places.overhead_nbytes)
    assert report.problems == ()
    assert places.physical_nbytes == sum(parts) == sum(sizes.values())
    assert places.files == len(sizes)
    for row in report.versions:
        assert row.nbytes == sum(getattr(row, f"{part}_nbytes") for part in PARTS)
        assert row.unknown_nbytes == 0
    backbones = sum(backbone.stored_nbytes for backbone in report.backbones)
    for by in {group.by for group in report.groups}:
        groups = [group for group in report.groups if group.by == by]
        assert sum(group.versions for group in groups) == len(report.versions)
        if len(groups) == 1:
            assert groups[0].nbytes == places.live_nbytes - backbones
    if report.growth and not report.growth[-1].unsized:
        assert report.growth[-1].live_nbytes == places.live_nbytes
        assert (report.growth[-1].tasks, report.growth[-1].versions) == (len(report.tasks), len(report.versions))
    assert report.metadata_nbytes >= 0


def check_deletions(store: Store, sizes: Callable[[], dict[str, int]], pick: int) -> None:
    """Delete what the report says it knows the bytes of: a collection frees these, and what it would have freed."""
    account = account_of(store)
    spare = account.report.places
    already = spare.reclaimable_nbytes - spare.leased_nbytes + spare.orphaned_nbytes
    targets = [(f"{row.task}:{row.version}", row.freed_if_deleted_nbytes, False) for row in account.report.versions]
    targets += [(row.task, row.freed_if_deleted_nbytes, True) for row in account.report.tasks]
    rules = [retention(account, keep_last=keep) for keep in (0, 1)]
    chosen = (targets + [(rule, rule.freed_nbytes, False) for rule in rules])[pick % (len(targets) + len(rules))]
    target, freed, whole = chosen
    try:
        if isinstance(target, str):
            assert store.remove(target, all_versions=whole, dry_run=True).freed_nbytes >= freed
            store.remove(target, all_versions=whole)
        else:
            for task in target.tasks:
                for number in task.removed:
                    store.remove(f"{task.task}:{number}")
    except OnetrunkError:  # an alias holds it: then nothing goes
        freed = 0
    before = blobs_of(sizes())
    assert collect_garbage(store, grace_s=0).freed_nbytes == freed + already
    assert before - blobs_of(sizes()) == freed + already - spare.orphaned_nbytes
    left = account_of(store).report.places
    assert left.reclaimable_nbytes == left.leased_nbytes


def blobs_of(sizes: dict[str, int]) -> int:
    return sum(nbytes for path, nbytes in sizes.items() if path.startswith("blobs/sha256/"))


def check(store: Store, done: list[Step], pick: int, sizes: Callable[[], dict[str, int]]) -> None:
    store.add_backbone(toy().record, toy().weights if pick % 2 else None)
    for step in done:
        take(store, step)
    account = account_of(store)
    store.release_connections()
    check_account(account, sizes())
    assert account_of(store).report == account.report
    check_deletions(store, sizes, pick)


@contextmanager
def fresh_folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="onetrunk-account-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def folder_sizes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def bucket_sizes(url: str) -> dict[str, int]:
    """Ask the server itself, not through our backend."""
    return {entry["path"]: entry["size"] for page in obstore.list(from_url(url)) for entry in page}


few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@settings(few, max_examples=int(os.environ.get("ONETRUNK_ACCOUNT_EXAMPLES", "40")))
@given(steps, st.integers(0, 99))
def test_a_folder_is_accounted_for_to_the_byte_and_frees_what_was_said(done: list[Step], pick: int) -> None:
    with fresh_folder() as folder, Store.open(folder / "store", create=True) as store:

        def sizes() -> dict[str, int]:
            store.release_connections()
            return folder_sizes(store.root)

        check(store, done, pick, sizes)


@pytest.mark.service
def test_a_folder_with_its_catalogue_on_postgresql_is_accounted_for(database_server: Postgres) -> None:
    @few
    @given(steps, st.integers(0, 99))
    def run(done: list[Step], pick: int) -> None:
        url = database_server.database()
        with fresh_folder() as folder, Store.open(folder / "store", create=True, catalogue=url) as store:
            check(store, done, pick, lambda: folder_sizes(store.root))
            assert account_of(store).report.catalogue_elsewhere

    run()


@pytest.mark.service
def test_a_bucket_is_accounted_for_to_the_byte_and_frees_what_was_said(bucket_server: Bucket) -> None:
    @few
    @given(steps, st.integers(0, 99))
    def run(done: list[Step], pick: int) -> None:
        url = bucket_server.prefix()
        with fresh_folder() as folder:
            catalogue = f"sqlite:///{folder / 'catalogue.sqlite'}"
            with Store.open(url, create=True, catalogue=catalogue) as store:
                check(store, done, pick, lambda: bucket_sizes(url))

    run()
