"""Every verb of the store in any order, beside a model in plain Python: after every step both must answer alike."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from support.agreement import blobs_of, check_answers, check_bytes, check_pages
from support.model_records import Content, ModelRule, ModelTask, sha256
from support.store_and_model import ACTOR, StoreAndModel
from support.store_model import Model
from support.strategies import (
    ANOTHER,
    OTHER,
    TASKS,
    alias_tuples,
    aliases,
    backbone_names,
    contents,
    files_of,
    picks,
    rules,
    searches,
    seldom,
    tasks,
    toy,
)

from store.adapters.checkpoint import parse_checkpoint
from store.errors import VersionNotFoundError
from store.maintenance.garbage import collect_garbage
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.records.events import AliasRule
from store.records.listing import Search
from store.registry.api_keys import new_key
from store.registry.publish import PublishOptions
from store.registry.store import Store

EXAMPLES = int(os.environ.get("ONETRUNK_MODEL_EXAMPLES", "30"))
STEPS = 40
HOUR_S = 3600.0


class Registry(StoreAndModel):
    """Few rules of many verbs each: Hypothesis leaves out about half of the rules in a run."""

    @initialize(weights=st.booleans(), drafts=st.lists(contents, min_size=2, max_size=5, unique=True), wanted=rules)
    def begin(self, weights: bool, drafts: list[Content], wanted: ModelRule) -> None:
        self.set_a_rule("acme/*", "canary", wanted)
        self.add_backbone("toy/vit", None, weights=weights)
        for content in drafts:
            self.publish(TASKS[0], content, "toy/vit", (), force=False)
        self.publish(TASKS[1], drafts[0], "toy/vit", ("prod",), force=False)

    @rule(task=tasks, content=contents, backbone=backbone_names, names=alias_tuples, force=seldom)
    def publish(self, task: str, content: Content, backbone: str, names: tuple[str, ...], force: bool) -> None:
        known = self.model.backbones.get(backbone)
        checkpoint = parse_checkpoint(files_of(content, known.fingerprint if known else OTHER))
        options = PublishOptions(backbone=backbone, depth=1, aliases=names, force=force)
        actual, number = self.both(
            lambda store: store.publish_checkpoint(task, checkpoint, where="here", options=options),
            lambda model: model.publish(task, content, backbone, names, force=force),
        )
        self.check_published(actual, number)

    @rule(task=tasks, pick=picks, names=alias_tuples)
    def publish_again(self, task: str, pick: int, names: tuple[str, ...]) -> None:
        kept = self.model.tasks.get(task, ModelTask()).versions.get(self.number(task, pick, first=self.is_removed))
        if kept is not None:
            self.publish(task, kept.content, kept.backbone, names, force=False)

    @rule(source=tasks, pick=picks, into=tasks)
    def export_and_publish(self, source: str, pick: int, into: str) -> None:
        number, folder = self.number(source, pick), self.folder / "exported"
        self.both(lambda store: store.export(f"{source}:{number}", folder), lambda model: model.version(source, number))
        if folder.exists():
            kept = self.model.version(source, number)
            actual, new = self.both(
                lambda store: store.publish(into, folder),
                lambda model: model.publish(into, kept.content, kept.backbone, (), force=False),
            )
            self.check_published(actual, new)
            shutil.rmtree(folder)

    @rule(how=st.sampled_from(("set", "roll back", "remove")), task=tasks, alias=aliases, pick=picks, force=seldom)
    def move_an_alias(self, how: str, task: str, alias: str, pick: int, force: bool) -> None:
        number = self.number(task, pick)
        if how == "set":
            self.both(
                lambda store: store.set_alias(task, alias, number, force=force),
                lambda model: model.set_alias(task, alias, number, force=force),
            )
        elif how == "remove":
            self.both(
                lambda store: store.remove_alias(task, alias, force=force),
                lambda model: model.remove_alias(task, alias, force=force),
            )
        else:
            actual, back = self.both(
                lambda store: store.rollback(task, alias, force=force),
                lambda model: model.rollback(task, alias, force=force),
            )
            assert (actual and actual.number) == back

    @rule(scope=st.sampled_from(("acme/roses", "acme/*", "*")), alias=aliases, wanted=rules)
    def set_a_rule(self, scope: str, alias: str, wanted: ModelRule) -> None:
        self.both(
            lambda store: store.set_rule(AliasRule(scope, alias, **dataclasses.asdict(wanted))),
            lambda model: model.set_rule(scope, alias, wanted),
        )

    @rule(
        task=tasks,
        pick=st.none() | picks,
        key=st.sampled_from(("owner", "stage")),
        value=st.sampled_from((None, "a", "%")),
    )
    def set_a_tag(self, task: str, pick: int | None, key: str, value: str | None) -> None:
        number = None if pick is None else self.number(task, pick)
        self.both(
            lambda store: store.set_tag(task, key, value, version=number),
            lambda model: model.set_tag(task, number, key, value),
        )

    @rule(task=tasks, pick=picks, whole=seldom)
    def take_away(self, task: str, pick: int, whole: bool) -> None:
        self.remove(task, None if whole else self.number(task, pick, first=self.is_spare))

    @precondition(lambda self: self.is_any_removed())
    @rule(task=tasks, pick=picks, whole=st.booleans())
    def bring_back(self, task: str, pick: int, whole: bool) -> None:
        number = None if whole else self.number(task, pick, first=self.is_removed)
        actual, predicted = self.both(
            lambda store: store.restore(task, number), lambda model: model.restore(task, number)
        )
        assert actual == predicted

    def remove(self, task: str, number: int | None) -> None:
        """Also check that the bytes it reports as freed are those by which the next collection frees more."""
        ref, whole = (task, True) if number is None else (f"{task}:{number}", False)
        before = collect_garbage(self.store, grace_s=0, dry_run=True).freed_nbytes
        foreseen, _ = self.both(
            lambda store: store.remove(ref, all_versions=whole, dry_run=True),
            lambda model: model.copy().remove(task, number),
        )
        actual, predicted = self.both(
            lambda store: store.remove(ref, all_versions=whole), lambda model: model.remove(task, number)
        )
        assert actual == foreseen
        if actual is not None:
            assert (actual.versions, actual.freed_nbytes) == predicted
            assert collect_garbage(self.store, grace_s=0, dry_run=True).freed_nbytes == before + actual.freed_nbytes

    @rule(at_once=st.booleans())
    def collect(self, at_once: bool) -> None:
        """Also check that it frees what it reports, to the byte, and does what a dry run foresees."""
        grace_s = 0 if at_once else HOUR_S
        foreseen, before = collect_garbage(self.store, grace_s=grace_s, dry_run=True), blobs_of(self.root)
        found, predicted = self.both(
            lambda store: collect_garbage(store, grace_s=grace_s), lambda model: model.collect(at_once=at_once)
        )
        assert found is not None
        assert predicted is not None
        assert found == foreseen
        purged, freed, condemned = predicted
        assert (found.purged, found.freed, found.marked) == (purged, tuple(sorted(freed)), tuple(sorted(condemned)))
        gone = sum(before.values()) - sum(blobs_of(self.root).values())
        assert found.freed_nbytes == sum(freed.values()) == gone
        assert found.marked_nbytes == sum(condemned.values())

    @rule(data=st.sampled_from((b"stray", b"straying")), lease=st.none() | st.sampled_from("pq"))
    def leave_a_blob(self, data: bytes, lease: str | None) -> None:
        """Put a blob that nothing references, as a publish does that died, or one that runs and holds a lease on it."""

        def act(store: Store) -> None:
            if lease is not None:
                store.release(lease)
                store.catalogue.lease(lease, [sha256(data)], holder="publish", expires_at=time.time() + HOUR_S)
            store.blobs.put(data)

        def predict(model: Model) -> None:
            model.present[sha256(data)] = len(data)
            if lease is not None:
                model.leases[lease] = frozenset({sha256(data)})

        self.both(act, predict)

    @rule(
        lease=st.sampled_from("abpq"),
        places=st.none() | st.sets(st.tuples(tasks, picks), max_size=2),
        expired=st.booleans(),
    )
    def lease_or_release(self, lease: str, places: set[tuple[str, int]] | None, expired: bool) -> None:
        if places is None or lease in "pq":  # those are of publishes in flight
            self.both(lambda store: store.release(lease), lambda model: model.leases.pop(lease, None))
            return
        digests = frozenset(
            self.digests.get((task, self.number(task, pick, first=self.is_spare)), "0" * 64) for task, pick in places
        )
        self.both(
            lambda store: store.lease(digests, holder="me", ttl_s=1e-6 if expired else HOUR_S, lease_id=lease),
            lambda model: model.lease(lease, digests, expired=expired),
        )

    @rule(name=backbone_names, other=st.sampled_from((None, OTHER, ANOTHER)), weights=st.booleans())
    def add_backbone(self, name: str, other: str | None, weights: bool) -> None:
        record = toy().record
        identity = record.id if other is None else dataclasses.replace(record.id, fingerprint=other)
        record = dataclasses.replace(record, name=name, id=identity)
        bytes_of = toy().weights if weights and other is None else None
        actual, kept = self.both(
            lambda store: store.add_backbone(record, bytes_of),
            lambda model: model.add_backbone(name, identity.fingerprint, dataclasses.asdict(record), bytes_of),
        )
        assert (actual and actual.name) == kept

    @rule(name=backbone_names)
    def remove_backbone(self, name: str) -> None:
        self.both(lambda store: store.remove_backbone(name), lambda model: model.remove_backbone(name))

    @precondition(lambda self: len(self.model.keys) < 2)
    @rule(revoke=st.booleans())
    def put_a_key(self, revoke: bool) -> None:
        key, _ = new_key("acme", ("read",))
        self.both(lambda store: store.put_key(key), lambda model: model.keys.update({key.id: True}))
        if revoke:
            self.both(lambda store: store.revoke_key(key.id), lambda model: model.revoke(key.id))

    @rule(lose=st.booleans())
    def come_back(self, lose: bool) -> None:
        """Close and open; in between, the catalogue may be lost and rebuilt from the journal and the manifests."""
        self.store.close()
        if lose:
            for path in self.root.glob("catalogue.sqlite*"):
                path.unlink()
            rebuilt = rebuild(self.root)
            kept = sum(len(task.versions) for task in self.model.tasks.values())
            assert (rebuilt.events, rebuilt.versions, rebuilt.problems) == (len(self.events), kept, ())
            self.model.leases.clear()  # they do not outlive a disaster
        self.store, self.is_settled = Store.open(self.root, actor=ACTOR), False

    @rule(search=searches, limit=st.integers(1, 3))
    def search(self, search: Search, limit: int) -> None:
        check_pages(self.store, self.model, search, limit)

    @rule()
    def verify(self) -> None:
        assert verify(self.store) == []

    @invariant()
    def the_store_is_the_model(self) -> None:
        assert blobs_of(self.root) == self.model.present
        check_answers(self.store, self.model)
        if not self.is_settled:
            check_bytes(self.store, self.model)
            assert verify(self.store, metadata_only=True) == []
            self.is_settled = True

    @invariant()
    def the_past_is_known(self) -> None:
        if not self.moves:
            return
        at, task, alias, _ = random.Random(len(self.events)).choice(self.moves)
        number = [n for when, t, a, n in self.moves if (t, a) == (task, alias) and when <= at][-1]
        if number in self.model.tasks[task].versions:
            actual = self.store.resolve(f"{task}@{alias}", at=at)
            assert (actual.number, actual.digest) == (number, self.digests[task, number])
        else:
            with pytest.raises(
                VersionNotFoundError, match=self.digests[task, number] if number else "pointed at no version"
            ):
                self.store.resolve(f"{task}@{alias}", at=at)


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
