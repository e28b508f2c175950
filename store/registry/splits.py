"""Split an alias among versions, and end a split."""

from __future__ import annotations

from collections.abc import Mapping

from store.adapters.checkpoint import parse_classes
from store.errors import RefusedError, VersionNotFoundError
from store.records.refs import check_name
from store.records.splits import NO_OPTIONS, AliasSplit, SplitOptions, SplitRule
from store.registry.store import Store, Version


def split_alias(
    store: Store,
    task: str,
    alias: str,
    shares: Mapping[int, float] | None = None,
    *,
    options: SplitOptions = NO_OPTIONS,
    force: bool = False,
) -> AliasSplit:
    """Split the requests for an alias among versions, by percents that add up to 100; return the split.

    The first version of `shares` is the stable one, which the alias names from now on: by default its own, with 100 %.
    `force` is as for `store.set_alias`. The split holds until the alias moves or `end_split` is called.
    """
    store.check_writable()
    store.require_task(task)
    if not shares:
        current = store.aliases(task).get(check_name(alias, "alias"))
        if current is None:
            raise VersionNotFoundError(
                f"{task} has no alias {alias!r}: name a version with 100%, or set the alias first"
            )
        shares = {current: 100.0}
    given = options
    rules = tuple(SplitRule.parse(rule) for rule in given.rules)
    split = AliasSplit(
        task, alias, tuple(shares.items()), given.shadow, given.overload, rules, given.over, given.promote
    )
    versions = {number: store.resolve(f"{task}:{number}") for number in split.versions}
    if split.overload is not None:
        _check_overload(store, versions[split.stable], versions[split.overload])
    certificates = {number: version.manifest.certificate for number, version in versions.items()}
    return store.catalogue.split_alias(split, certificates, force=force)


def end_split(store: Store, task: str, alias: str, *, force: bool = False) -> AliasSplit:
    """Send all requests for the alias to its stable version again; return what the split was."""
    store.check_writable()
    store.require_task(task)
    return store.catalogue.end_split(task, check_name(alias, "alias"), force=force)


def settle_split(store: Store, split: AliasSplit, evidence: Mapping[str, object], *, promote: bool = False) -> bool:
    """End this very split as its rules say, once: of several servers that judge alike, one does it."""
    store.check_writable()
    return store.catalogue.settle_split(split, evidence, promote=promote)


def _check_overload(store: Store, stable: Version, shallow: Version) -> None:
    """Raise unless the version may answer in place of the stable one: shallower, measured, of the same classes."""
    name = f"{shallow.task}:{shallow.number}"
    if shallow.manifest.depth >= stable.manifest.depth:
        raise RefusedError(
            f"{name} has depth {shallow.manifest.depth}, {stable.task}:{stable.number} has {stable.manifest.depth}: "
            "under overload a shallower version answers, name one"
        )
    if shallow.manifest.certificate is None:
        raise RefusedError(
            f"{name} has no certificate, so what it costs is not known: make one with "
            "`fit_and_publish(store, task, dataset)`"
        )
    if shallow.manifest.backbone != stable.manifest.backbone:
        raise RefusedError(f"{name} has another backbone than {stable.task}:{stable.number}: name one on the same")
    classes = [parse_classes(store.read(version.manifest.head.labels)) for version in (stable, shallow)]
    if classes[0] != classes[1]:
        raise RefusedError(f"{name} has other classes than {stable.task}:{stable.number}: name one of the same")
