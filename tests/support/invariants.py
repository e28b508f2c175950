"""Whether a store is what was acknowledged, whole, after a crash or a power cut; the verbs as subjects of both."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from store.accounting.report import storage_report
from store.errors import IntegrityError, OlderFormatError, StoreNotFoundError
from store.maintenance.garbage import collect_garbage
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.records.events import Event
from store.registry.store import Store, Version
from support.crash_subjects import Acknowledge, copy_store
from support.store_verbs import VERBS

CATALOGUE_FILES = ("catalogue.sqlite*", "catalogue.lock")


@dataclass(frozen=True)
class Observation:
    """All that a store answers, without times: stores that the same verbs changed give the same."""

    refusal: str = ""
    versions: tuple[object, ...] = ()
    listed: tuple[object, ...] = ()
    backbones: tuple[object, ...] = ()
    rules: tuple[object, ...] = ()
    history: tuple[object, ...] = ()
    findings: tuple[object, ...] = ()
    quarantined: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerbSubject:
    """A verb, the store before it, made once, and what that store answers before and after an undisturbed run."""

    name: str
    inputs: Path
    template: Path
    before: Observation
    after: Observation

    def run(self, root: Path, acknowledge: Acknowledge) -> None:
        VERBS[self.name].run(root, self.inputs, acknowledge)

    def problems(self, root: Path, *, acknowledged: bool) -> Iterator[str]:
        """Yield what is wrong with the store after the verb was interrupted or, if `acknowledged`, had returned."""
        try:
            if acknowledged:
                yield from self._unjournalled(root)
            seen = observe(root)
            if not (seen == self.after or (not acknowledged and self._is_allowed(seen))):
                yield f"it is neither before nor after: {difference(seen, self.after)}"
            else:
                yield from self._unrepeatable(root, seen)
                yield from litter(root)
        except Exception as error:
            yield f"{type(error).__name__}: {error}"

    def _is_allowed(self, seen: Observation) -> bool:
        step = VERBS[self.name].steps and seen.history == self.after.history[: len(seen.history)] and not seen.findings
        return seen == self.before or step

    def _unrepeatable(self, root: Path, seen: Observation) -> Iterator[str]:
        try:
            self.run(root, lambda: None)
        except VERBS[self.name].done:
            if seen != self.after:
                raise
        again = observe(root)
        if again != self.after:
            yield f"doing it again leads elsewhere: {difference(again, self.after)}"

    def _unjournalled(self, root: Path) -> Iterator[str]:
        """Yield how a catalogue that is rebuilt from the journal differs from what was acknowledged."""
        again = root.with_name("again")
        shutil.copytree(root, again, ignore=shutil.ignore_patterns(*CATALOGUE_FILES))
        try:
            rebuild(again)
            rebuilt = observe(again)
        finally:
            shutil.rmtree(again)
        if rebuilt != self.after:
            yield f"its journal tells another story: {difference(rebuilt, self.after)}"


def prepare(name: str, inputs: Path, folder: Path) -> VerbSubject:
    """Make the verb's store, and run it once on a copy."""
    template, done = folder / "before" / "store", folder / "after" / "store"
    template.parent.mkdir(parents=True)
    VERBS[name].prepare(template, inputs)
    before = observe(template)
    copy_store(template, done)
    VERBS[name].run(done, inputs, lambda: None)
    return VerbSubject(name, inputs, template, before, observe(done))


def observe(root: Path) -> Observation:
    """Ask a store everything; every blob that is not among its findings is read back."""
    try:
        opened = Store.open(root)
    except StoreNotFoundError:
        return Observation(refusal="no store")
    except (OlderFormatError, IntegrityError) as error:
        return Observation(refusal=f"{type(error).__name__}: {str(error).replace(str(root), 'ROOT')}")
    with opened as store:
        findings = verify(store)
        damaged = {finding.path for finding in findings}
        versions = store.versions(removed=True)
        for blob in {blob for version in versions for blob in _blobs(version)}:
            if store.blobs.locate(blob) not in damaged:
                store.read(blob)
        return Observation(
            versions=tuple((v.task, v.number, v.digest, v.aliases, v.removed_at is None) for v in versions),
            listed=tuple((row.version, row.tags, row.nbytes) for row in store.search(limit=100).rows),
            backbones=tuple(store.backbones()),
            rules=tuple(store.rules()),
            history=tuple(_fact(event) for event in store.queries.history()),
            findings=tuple((Path(f.path).relative_to(root), f.used_by) for f in findings),
            quarantined=tuple(file.path.split(".")[0] for file in store.backend.list("quarantine")),
        )


def difference(seen: Observation, expected: Observation) -> str:
    names = [field.name for field in dataclasses.fields(Observation)]
    pairs = ((name, getattr(seen, name), getattr(expected, name)) for name in names)
    return "; ".join(f"{name} is {found}, not {wanted}" for name, found, wanted in pairs if found != wanted)


def litter(root: Path) -> Iterator[str]:
    """Yield what a collection leaves that nothing needs, once the leases of the dead have run out."""
    with Store.open(root) as store:
        for lease in store.leases():
            store.release(lease.id)
        collect_garbage(store, grace_s=0)
        report = storage_report(store)
        counted = report.places
        if counted.garbage_nbytes != counted.quarantined_nbytes or counted.reclaimable_nbytes:
            yield f"gc leaves {report.garbage_files} and {counted.reclaimable_nbytes} bytes of blobs"


def _blobs(version: Version) -> tuple[Blob, ...]:
    return (version.manifest_blob, *version.manifest.blobs)


def _fact(event: Event) -> tuple[object, ...]:
    subject = "" if event.action == "create" else event.subject  # the store's UUID
    return (event.number, event.actor, event.action, subject, event.version, event.alias, event.digest, event.details)
