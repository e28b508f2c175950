"""What a store does, in plain Python: written from its docstrings, and obviously right before it is fast."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from store.errors import (
    BackboneNotFoundError,
    ConflictError,
    GateError,
    InUseError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from support.model_records import (
    Content,
    ModelBackbone,
    ModelRule,
    ModelTask,
    ModelVersion,
    blob_of,
    canonical,
    sha256,
)

LATEST = "latest"


@dataclass
class Model:
    """A whole store: a verb changes it or raises as the store must; `moves` has the alias moves since last cleared."""

    tasks: dict[str, ModelTask] = field(default_factory=dict)
    rules: dict[tuple[str, str], ModelRule] = field(default_factory=dict)
    backbones: dict[str, ModelBackbone] = field(default_factory=dict)
    keys: dict[str, bool] = field(default_factory=dict)
    leases: dict[str, frozenset[str]] = field(default_factory=dict)
    present: dict[str, int] = field(default_factory=dict)
    """The blobs on disk and their sizes, referenced or not."""
    moves: list[tuple[str, str, int | None]] = field(default_factory=list)

    def copy(self) -> Model:
        return copy.deepcopy(self)

    def task(self, name: str) -> ModelTask:
        """Return a task that has a version."""
        if name not in self.tasks or not self.tasks[name].there:
            raise TaskNotFoundError
        return self.tasks[name]

    def version(self, name: str, number: int) -> ModelVersion:
        kept = self.task(name).there.get(number)
        if kept is None:
            raise VersionNotFoundError
        return kept

    # Publishing and moving aliases

    def publish(self, name: str, content: Content, backbone: str, aliases: Iterable[str], *, force: bool) -> int:
        if backbone not in self.backbones:
            raise BackboneNotFoundError
        manifest = content.manifest(name, backbone, self.backbones[backbone].fingerprint)
        task = self.tasks.setdefault(name, ModelTask())
        same = [number for number, kept in task.versions.items() if kept.digest == sha256(manifest)]
        number = same[0] if same else task.next
        blobs = {sha256(data): len(data) for data in (*content.files, manifest)}
        task.versions.setdefault(number, ModelVersion(content, backbone, sha256(manifest), blobs)).removed = False
        task.next = max(task.next, number + 1)
        self.present |= blobs
        for alias in dict.fromkeys((LATEST, *aliases)):
            self.move_alias(name, alias, number, force=force)
        return number

    def move_alias(self, name: str, alias: str, number: int, *, force: bool = False) -> None:
        """Move an alias unless it names the version already."""
        if self.tasks[name].aliases.get(alias) == number:
            return
        self._check_rule(name, alias, self.tasks[name].versions[number].content, force=force)
        self._move(name, alias, number)
        self.tasks[name].trails.setdefault(alias, []).append(number)

    def set_alias(self, name: str, alias: str, number: int, *, force: bool) -> None:
        self.version(name, number)
        self.move_alias(name, alias, number, force=force)

    def remove_alias(self, name: str, alias: str, *, force: bool) -> None:
        task = self.task(name)
        if alias == LATEST:
            raise InvalidNameError
        if alias not in task.aliases:
            raise VersionNotFoundError
        self._check_protected(name, alias, force=force)
        self._move(name, alias, None)

    def rollback(self, name: str, alias: str, *, force: bool) -> int:
        """Move the alias to the version that it named before, past removed ones; each rollback goes back further."""
        task = self.task(name)
        trail = list(task.trails.get(alias, []))
        while trail and (trail[-1] == task.aliases.get(alias) or trail[-1] not in task.there):
            trail.pop()
        if not trail:
            raise VersionNotFoundError
        self._check_rule(name, alias, task.versions[trail[-1]].content, force=force)
        self._move(name, alias, trail[-1])
        task.trails[alias] = trail
        return trail[-1]

    def set_rule(self, scope: str, alias: str, rule: ModelRule) -> None:
        if alias == LATEST:
            raise InvalidSettingError
        self.rules.pop((scope, alias), None)
        if rule != ModelRule():
            self.rules[scope, alias] = rule

    def rule_of(self, name: str, alias: str) -> ModelRule:
        """The task's own, else its tenant's, else everyone's."""
        tenant = [name.split("/")[0] + "/*"] if "/" in name else []
        return next((self.rules[s, alias] for s in (name, *tenant, "*") if (s, alias) in self.rules), ModelRule())

    def _check_rule(self, name: str, alias: str, content: Content, *, force: bool) -> None:
        self._check_protected(name, alias, force=force)
        rule = self.rule_of(name, alias)
        if rule.max_drop is None and rule.min_accuracy is None:
            return
        if content.full is None or content.cut is None:
            raise GateError
        if rule.max_drop is not None and content.full - content.cut > Fraction(str(rule.max_drop)):
            raise GateError
        if rule.min_accuracy is not None and Fraction(content.cut, 100) < Fraction(str(rule.min_accuracy)):
            raise GateError

    def _check_protected(self, name: str, alias: str, *, force: bool) -> None:
        if self.rule_of(name, alias).protected and not force:
            raise NotAllowedError

    def _move(self, name: str, alias: str, number: int | None) -> None:
        self.moves.append((name, alias, number))
        if number is None:
            del self.tasks[name].aliases[alias]
            self.tasks[name].trails.pop(alias, None)
        else:
            self.tasks[name].aliases[alias] = number

    # Taking away and bringing back

    def remove(self, name: str, number: int | None) -> tuple[tuple[str, ...], int]:
        """Return the versions that go, and the bytes that no other version and no backbone references."""
        task = self.task(name)
        going = task.there if number is None else {number: self.version(name, number)}
        for gone, kept in going.items():
            holding = {alias for alias, at in task.aliases.items() if at == gone}
            if holding - ({LATEST} if number is None else set()) or kept.digest in self.leased():
                raise InUseError
        if number is None:
            self._move(name, LATEST, None)
        for kept in going.values():
            kept.removed = True
        staying = self.referenced(removed=False)
        blobs = {digest: nbytes for kept in going.values() for digest, nbytes in kept.blobs.items()}
        freed = sum(nbytes for digest, nbytes in blobs.items() if digest not in staying)
        return tuple(f"{name}:{gone}" for gone in sorted(going)), freed

    def restore(self, name: str, number: int | None) -> list[int]:
        task = self.tasks.get(name, ModelTask())
        back = sorted(n for n, kept in task.versions.items() if kept.removed and number in (None, n))
        if not back:
            raise VersionNotFoundError
        for one in back:
            task.versions[one].removed = False
        if LATEST not in task.aliases:
            self.move_alias(name, LATEST, max(task.there))
        return back

    def collect(self, *, at_once: bool) -> tuple[tuple[str, ...], dict[str, int], dict[str, int]]:
        """Return the versions purged, the blobs freed and those marked; with a long grace time nothing goes yet."""
        purged: list[str] = []
        for name, task in sorted(self.tasks.items()) if at_once else []:
            gone = sorted(task.versions.keys() - task.there.keys())
            purged += [f"{name}:{number}" for number in gone]
            for number in gone:
                del task.versions[number]
        unreferenced = {d: n for d, n in self.present.items() if d not in self.referenced(removed=True) | self.leased()}
        if not at_once:
            return (), {}, unreferenced
        for digest in unreferenced:
            del self.present[digest]
        return tuple(purged), unreferenced, {}

    def referenced(self, *, removed: bool) -> set[str]:
        """Every digest that a version or a backbone references; `removed` says whether removed versions count."""
        versions = [kept for task in self.tasks.values() for kept in task.versions.values()]
        holders = [kept for kept in versions if removed or not kept.removed]
        return {digest for holder in (*holders, *self.backbones.values()) for digest in holder.blobs}

    def leased(self) -> set[str]:
        return {digest for held in self.leases.values() for digest in held}

    def lease(self, identifier: str, digests: frozenset[str], *, expired: bool) -> None:
        there = {kept.digest for task in self.tasks.values() for kept in task.there.values()}
        if not digests <= there:
            raise VersionNotFoundError
        self.leases.pop(identifier, None)
        if not expired:
            self.leases[identifier] = digests

    # Backbones, tags, keys

    def add_backbone(self, name: str, fingerprint: str, record: Mapping[str, object], weights: bytes | None) -> str:
        """Return the backbone's name in the store: a known fingerprint keeps its name and its weights."""
        known = next((n for n, backbone in self.backbones.items() if backbone.fingerprint == fingerprint), None)
        if known is not None and (weights is None or len(self.backbones[known].blobs) == 2):
            return known
        kept = known or name
        if kept in self.backbones and self.backbones[kept].fingerprint != fingerprint:
            raise ConflictError
        encoded = canonical({**record, "name": kept, "weights": None if weights is None else blob_of(weights)})
        files = [encoded] + ([] if weights is None else [weights])
        self.backbones[kept] = ModelBackbone(fingerprint, {sha256(data): len(data) for data in files})
        self.present |= self.backbones[kept].blobs
        return kept

    def remove_backbone(self, name: str) -> None:
        if name not in self.backbones:
            raise BackboneNotFoundError
        if any(kept.backbone == name for task in self.tasks.values() for kept in task.versions.values()):
            raise InUseError
        del self.backbones[name]

    def set_tag(self, name: str, number: int | None, key: str, value: str | None) -> None:
        task = self.task(name)
        tags = task.tags if number is None else self.version(name, number).tags
        tags.pop(key, None)
        if value is not None:
            tags[key] = value

    def revoke(self, key: str) -> None:
        if key not in self.keys:
            raise NotFoundError
        self.keys[key] = False

    def tags_of(self, name: str, number: int) -> dict[str, str]:
        return {**self.tasks[name].tags, **self.tasks[name].versions[number].tags}
