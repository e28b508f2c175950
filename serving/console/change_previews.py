"""What a change would do: the dry run of it, in the words of a page."""

from __future__ import annotations

from dataclasses import dataclass

from serving.console.rendering import percent, plain, plural, size
from serving.console.state import Visit
from store.errors import InUseError
from store.records.evidence import Certificate
from store.registry.alias_preview import AliasPreview


@dataclass(frozen=True)
class Fact:
    """What is now, and what would be."""

    name: str
    now: str
    then: str


@dataclass(frozen=True)
class Check:
    """Something that the change needs, and whether it is given."""

    text: str
    passed: bool
    remedy: str = ""


@dataclass(frozen=True)
class Preview:
    """The change as a page shows it; it can be confirmed where `refusal` is None."""

    title: str
    button: str
    facts: tuple[Fact, ...] = ()
    checks: tuple[Check, ...] = ()
    refusal: str | None = None
    note: str = ""
    is_destructive: bool = False
    may_force: bool = False


def preview_promotion(visit: Visit, task: str) -> Preview:
    alias, version = visit.required("alias"), visit.number("version")
    if version is None:
        visit.required("version")
    move = visit.store.preview_alias(task, alias, version or 0, force=_forced(visit))
    return _move(visit, move, f"Point {alias} at version {version}", "Move the alias")


def preview_rollback(visit: Visit, task: str) -> Preview:
    alias = visit.required("alias")
    move = visit.store.preview_rollback(task, alias, force=_forced(visit))
    if move.target is None:
        refusal = f"{alias} named no other version before that is still there, so there is nothing to go back to."
        return Preview(f"Roll {alias} back", "Roll back", refusal=refusal)
    return _move(visit, move, f"Roll {alias} back to version {move.target}", "Roll back")


def _move(visit: Visit, move: AliasPreview, title: str, button: str) -> Preview:
    now = "no version" if move.current is None else f"version {move.current}"
    forced = _forced(visit)
    checks = [_scope(visit, "admin" if forced else "promote"), *_rule_checks(visit, move, forced=forced)]
    failed = next((check for check in checks if not check.passed), None)
    refusal = failed.text if failed else None if move.refusal is None else plain(str(move.refusal))
    note = "Nothing changes: the alias names this version already." if move.current == move.target else ""
    return Preview(
        title, button, (Fact(move.alias, now, f"version {move.target}"),), tuple(checks), refusal, note,
        may_force=move.rule.protected and not forced and visit.may("admin"),
    )  # fmt: skip


def _rule_checks(visit: Visit, move: AliasPreview, *, forced: bool) -> list[Check]:
    rule, certificate = move.rule, move.certificate
    checks = []
    if rule.protected:
        remedy = "" if forced else "Someone with the scope admin may move it all the same."
        remedy = "Confirm below that it is meant to move." if remedy and visit.may("admin") else remedy
        state = "is protected, and moved on purpose" if forced else "is protected"
        checks.append(Check(f"{move.alias} {state}", forced, remedy))
    if rule.max_drop is not None:
        drop = _drop(certificate)
        shown = "is not known" if drop is None else f"is {drop:.2f}"
        remedy = "Fit the task again with a smaller drop, or at more depth; the rule itself is changed by an operator."
        passed = drop is not None and drop <= rule.max_drop + 1e-9
        checks.append(Check(f"The cut may cost {rule.max_drop:g} points; its cost {shown}", passed, remedy))
    if rule.min_accuracy is not None:
        accuracy = None if certificate is None else certificate.cut
        passed = accuracy is not None and accuracy.value >= rule.min_accuracy - 1e-12
        remedy = "Tune the task further, or publish a version with a certificate."
        shown = "it has no certificate" if accuracy is None else f"it has {percent(accuracy)}"
        checks.append(Check(f"At least {rule.min_accuracy:.1%} accuracy is needed; {shown}", passed, remedy))
    return checks


def _drop(certificate: Certificate | None) -> float | None:
    if certificate is None or certificate.full is None:
        return None
    return 100 * (certificate.full.value - certificate.cut.value)


def preview_tag(visit: Visit, task: str) -> Preview:
    key, value, version = visit.required("key"), visit.text("value"), visit.number("version")
    before = visit.store.tags(task, version).get(key)
    where = "the task" if version is None else f"version {version}"
    facts = (Fact(key, before or "not set", value or "not set"),)
    return _guarded(visit, "publish", Preview(f"Set the tag {key} of {where}", "Set the tag", facts))


def preview_removal(visit: Visit, task: str) -> Preview:
    version = visit.number("version")
    what = f"all of {task}" if version is None else f"version {version}"
    title, scope = f"Remove {what}", "admin" if version is None else "publish"
    if not visit.may(scope):
        return _guarded(visit, scope, Preview(title, "Remove"))
    try:
        ref = task if version is None else f"{task}:{version}"
        removal = visit.store.remove(ref, all_versions=version is None, dry_run=True)
    except InUseError as error:
        return Preview(title, "Remove", refusal=plain(str(error)))
    facts = (
        Fact("versions removed", "", ", ".join(removal.versions[:20])),
        Fact("bytes that the next garbage collection frees", "", size(removal.freed_nbytes)),
    )
    note = "It can be restored until the operator collects garbage."
    return _guarded(visit, scope, Preview(title, "Remove", facts, note=note, is_destructive=True))


def preview_restoring(visit: Visit, task: str) -> Preview:
    version = visit.number("version")
    removed = [row for row in visit.store.list_versions(task, removed=True) if row.removed_at is not None]
    numbers = [row.version for row in removed if version is None or row.version == version]
    title = f"Restore {'all removed versions' if version is None else f'version {version}'}"
    if not numbers:
        return Preview(title, "Restore", refusal="No such version is removed, so there is nothing to restore.")
    facts = (Fact(plural(len(numbers), "version"), "removed", ", ".join(map(str, numbers[:20]))),)
    return _guarded(visit, "publish", Preview(title, "Restore", facts))


def _guarded(visit: Visit, scope: str, preview: Preview) -> Preview:
    """Return the preview with the scope that it needs as its check."""
    check = _scope(visit, scope)
    refusal = preview.refusal if check.passed else check.text
    return Preview(
        preview.title, preview.button, preview.facts, (check, *preview.checks), refusal, preview.note,
        is_destructive=preview.is_destructive,
    )  # fmt: skip


def _scope(visit: Visit, scope: str) -> Check:
    if visit.may(scope):
        return Check(f"Your key has the scope {scope}", passed=True)
    if visit.session is None:
        remedy = "A server with API keys lets those who have one make changes; here everyone may only look."
        return Check(f"This needs an API key with the scope {scope}", passed=False, remedy=remedy)
    scopes = ", ".join(visit.store.key.scopes)
    remedy = "Ask an operator for a key that has it, and sign in with that."
    return Check(f"This needs the scope {scope}; your key has {scopes}", passed=False, remedy=remedy)


def _forced(visit: Visit) -> bool:
    return visit.text("force") == "1"
