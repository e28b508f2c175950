"""The store over HTTP, for every caller with an API key.

Arguments are in the path and the query: a body would be read before the key is checked.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from fastapi import APIRouter, Query

from serving.http.auth import Caller
from store.errors import InvalidNameError, InvalidSettingError
from store.records.bounds import MAX_NUMBER, MAX_PAGE, check_list
from store.records.events import AliasRule, ApiKey
from store.records.listing import Search
from store.records.refs import Ref
from store.records.splits import OVER, SplitOptions, parse_share, parse_shares

Json = dict[str, object]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
After = Annotated[int, Query(ge=0, le=MAX_NUMBER)]
Repeated = Annotated[list[str] | None, Query()]
routes = APIRouter()


@routes.get("/v1/tasks")
def list_tasks(
    caller: Caller,
    text: str | None = None,
    tag: Repeated = None,
    backbone: str | None = None,
    method: str | None = None,
    alias: str | None = None,
    after: str | None = None,
    limit: Limit = 50,
) -> Json:
    """List tasks by name, a page at a time: `next` is what `after` must be in the next request; `tag` is KEY=VALUE."""
    search = Search(text=text, tags=parse_tags(tag or []), backbone=backbone, method=method, alias=alias)
    page = caller.search(search, after=after, limit=limit)
    return {"tasks": [dataclasses.asdict(row) for row in page.rows], "next": page.next}


@routes.get("/v1/tasks/{task:path}")
def show_task(task: str, caller: Caller, *, removed: bool = False, after: After = 0, limit: Limit = MAX_PAGE) -> Json:
    """Show a task: its versions after a number, a page at a time, its aliases, their splits and rules, and its tags."""
    versions = caller.list_versions(task, removed=removed, after=after, limit=limit)
    return {
        "task": task,
        "versions": [dataclasses.asdict(row) for row in versions],
        "next": versions[-1].version if len(versions) == limit else None,
        "aliases": caller.aliases(task),
        "splits": [split.to_dict() for split in caller.splits(task)],
        "rules": [dataclasses.asdict(rule) for rule in caller.rules(task)],
        "tags": caller.tags(task),
    }


@routes.delete("/v1/tasks/{task:path}")
def remove_task(task: str, caller: Caller, *, dry_run: bool = False) -> Json:
    """Remove every version of the task; `restore` brings them back until the operator collects garbage."""
    return dataclasses.asdict(caller.remove(task, all_versions=True, dry_run=dry_run))


@routes.get("/v1/versions/{ref:path}")
def show_version(ref: str, caller: Caller, at: str | None = None) -> Json:
    """Show one version and its manifest; with `at`, the version that the alias named at that time (ISO 8601)."""
    version = caller.resolve(ref, at=at)
    return {**version.to_dict(), "manifest": dataclasses.asdict(version.manifest)}


@routes.delete("/v1/versions/{ref:path}")
def remove_version(ref: str, caller: Caller, *, dry_run: bool = False) -> Json:
    """Remove one version that no alias names and no server uses."""
    return dataclasses.asdict(caller.remove(ref, dry_run=dry_run))


@routes.post("/v1/restore/{ref:path}")
def restore(ref: str, caller: Caller) -> Json:
    """Bring back a removed version, or all versions of a task."""
    task, version = split_version(ref)
    return {"task": task, "versions": caller.restore(task, version)}


@routes.get("/v1/history/{task:path}")
def history(task: str, caller: Caller, after: After = 0, limit: Limit = MAX_PAGE) -> list[Json]:
    """List who did what to the task, and when, numbered from its first event, a page at a time."""
    return [dataclasses.asdict(event) for event in caller.history(task, after=after, limit=limit)]


@routes.put("/v1/aliases/{ref:path}")
def set_alias(ref: str, caller: Caller, *, version: int, force: bool = False) -> Json:
    """Point `TASK@ALIAS` at a version."""
    task, alias = split_ref(ref)
    caller.set_alias(task, alias, version, force=force)
    return {"task": task, "alias": alias, "version": version}


@routes.delete("/v1/aliases/{ref:path}")
def remove_alias(ref: str, caller: Caller, *, force: bool = False) -> Json:
    """Remove the alias `TASK@ALIAS`."""
    task, alias = split_ref(ref)
    caller.remove_alias(task, alias, force=force)
    return {"task": task, "alias": alias}


@routes.post("/v1/rollback/{ref:path}")
def rollback(ref: str, caller: Caller, *, force: bool = False) -> Json:
    """Point `TASK@ALIAS` back at the version that it named before."""
    task, alias = split_ref(ref)
    return caller.rollback(task, alias, force=force).to_dict()


@routes.put("/v1/splits/{ref:path}")
def split_alias(
    ref: str,
    caller: Caller,
    *,
    share: Repeated = None,
    shadow: str | None = None,
    overload: int | None = None,
    rule: Repeated = None,
    over: int = OVER,
    promote: bool = False,
    force: bool = False,
) -> Json:
    """Split `TASK@ALIAS` among versions: `share` is VERSION=PERCENT, the stable version first, and so is `shadow`.

    A `rule`, such as errors>1%, ends the split once a candidate breaks it within its last `over` requests.
    """
    task, alias = split_ref(ref)
    beside = None if shadow is None else parse_share(shadow)
    options = SplitOptions(beside, overload, tuple(rule or ()), over, promote)
    return caller.split_alias(task, alias, parse_shares(share or []), options=options, force=force).to_dict()


@routes.delete("/v1/splits/{ref:path}")
def end_split(ref: str, caller: Caller, *, force: bool = False) -> Json:
    """End the split of `TASK@ALIAS`: its stable version answers all requests again."""
    task, alias = split_ref(ref)
    return caller.end_split(task, alias, force=force).to_dict()


@routes.put("/v1/rules/{ref:path}")
def set_rule(
    ref: str,
    caller: Caller,
    *,
    protected: bool = False,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
) -> Json:
    """Set what a version needs before `TASK@ALIAS` moves to it, or `TENANT/*@ALIAS` for every task of a tenant."""
    task, _, alias = ref.rpartition("@")
    rule = AliasRule(task, alias, protected=protected, max_drop=max_drop, min_accuracy=min_accuracy)
    caller.set_rule(rule)
    return dataclasses.asdict(rule)


@routes.put("/v1/tags/{ref:path}")
def set_tag(ref: str, caller: Caller, key: str, value: str) -> Json:
    """Tag a task, or the version that `TASK:NUMBER` names."""
    return change_tag(ref, caller, key, value)


@routes.delete("/v1/tags/{ref:path}")
def remove_tag(ref: str, caller: Caller, key: str) -> Json:
    """Remove a tag."""
    return change_tag(ref, caller, key, None)


@routes.get("/v1/backbones")
def list_backbones(caller: Caller) -> list[Json]:
    """List the backbones that tasks may use."""
    return [
        {
            "name": record.name,
            "fingerprint": record.id.fingerprint,
            "blocks": record.blocks,
            "dim": record.dim,
            "height": record.id.preprocessing.height,
            "width": record.id.preprocessing.width,
        }
        for record in caller.backbones()
    ]


@routes.get("/v1/keys")
def list_keys(caller: Caller, after: str = "", limit: Limit = MAX_PAGE) -> list[Json]:
    """List the keys of the caller's tenant by id, a page at a time; an operator's key lists all."""
    return [show_key(key) for key in caller.list_keys(after=after, limit=limit)]


@routes.post("/v1/keys")
def create_key(caller: Caller, scope: Annotated[list[str], Query()], tenant: str | None = None) -> Json:
    """Make a key for the caller's own tenant, the operator for any; only this answer contains its secret."""
    key, secret = caller.create_key(tenant or caller.key.tenant, tuple(scope))
    return {**show_key(key), "secret": secret}


@routes.delete("/v1/keys/{identifier}")
def revoke_key(identifier: str, caller: Caller) -> Json:
    """Revoke a key; every server refuses it within a second."""
    return show_key(caller.revoke_key(identifier))


def show_key(key: ApiKey) -> Json:
    """Return what may be shown of a key, without the digest of its secret."""
    shown = dataclasses.asdict(key)
    del shown["sha256"]
    return shown


def change_tag(ref: str, caller: Caller, key: str, value: str | None) -> Json:
    task, version = split_version(ref)
    caller.set_tag(task, key, value, version=version)
    return {"task": task, "version": version, "key": key, "value": value}


def split_version(ref: str) -> tuple[str, int | None]:
    parsed = Ref.parse(ref)
    if parsed.alias is not None or parsed.digest is not None:
        raise InvalidNameError(f"{ref[:200]!r} is neither a task nor a numbered version: write TASK or TASK:NUMBER")
    return parsed.task, parsed.version


def split_ref(ref: str) -> tuple[str, str]:
    parsed = Ref.parse(ref)
    if parsed.alias is None:
        raise InvalidNameError(f"{ref[:200]!r} names no alias: write TASK@ALIAS")
    return parsed.task, parsed.alias


def parse_tags(pairs: list[str]) -> dict[str, str]:
    check_list("tags", pairs)
    wrong = [pair for pair in pairs if not pair.partition("=")[1]]
    if wrong:
        raise InvalidSettingError(f"tag {wrong[0][:80]!r} is not KEY=VALUE: write for example tag=team=vision")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
