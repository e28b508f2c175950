"""The life of versions, through the command line alone."""

from __future__ import annotations

import csv
import io
import os
import pty

import pytest
from support.cli import run
from support.toy_backbone import relabel


def test_an_alias_moves_and_rolls_back_and_the_history_tells_who_did_it(shell):
    for lost in (0, 1, 2):
        shell.publish(lost=lost)
    shell("alias", "set", "flowers", "prod", "1", "--actor", "ann")
    shell("alias", "set", "flowers", "prod", "3", "--actor", "bob")
    assert shell.aliases() == {"latest": 3, "prod": 3}
    shell("rollback", "flowers", "prod", "--actor", "eve")
    assert shell.aliases() == {"latest": 3, "prod": 1}
    shell("alias", "rm", "flowers", "prod")
    assert shell.aliases() == {"latest": 3}
    events = [e for e in shell.json("history", "flowers") if e["alias"] == "prod"]
    told = [(e["actor"], e["action"], e["version"], (e["details"] or {}).get("from")) for e in events]
    assert told[:3] == [("ann", "alias", 1, None), ("bob", "alias", 3, 1), ("eve", "alias", 1, 3)]
    assert told[3][1] == "alias-rm"


def test_what_an_alias_named_at_a_time_is_told_for_ever(shell):
    shell.publish("flowers", "--alias", "prod", lost=0)
    before = shell.json("history", "flowers")[-1]["at"]
    shell.publish("flowers", "--alias", "prod", lost=1)
    then = {row["alias"]: row["version"] for row in shell.json("history", "flowers", "--at", before)}
    assert then == {"latest": 1, "prod": 1}
    shown = shell("show", "flowers@prod", "--at", before, "--format", "csv").out
    assert "version,1" in shown.splitlines()


def test_a_rule_refuses_what_it_does_not_allow_in_one_line(shell):
    shell.publish(lost=3)
    shell("alias", "rule", "*", "prod", "--max-drop", "1")
    refused = shell("alias", "set", "flowers", "prod", "1", code=1)
    assert refused.err.startswith("GateError: the cut of flowers:1 costs 3 points, alias 'prod' allows 1")
    assert len(refused.err.splitlines()) == 1
    shell("alias", "set", "flowers", "prod", "1", "--force", code=1)
    shell("alias", "rule", "flowers", "prod", "--max-drop", "5")
    shell("alias", "rule", "flowers", "prod", "--protect")
    assert "NotAllowedError" in shell("alias", "set", "flowers", "prod", "1", code=1).err
    shell("alias", "set", "flowers", "prod", "1", "--force")
    (row,) = [r for r in shell.json("alias", "ls", "flowers") if r["alias"] == "prod"]
    expected = {"alias": "prod", "version": 1, "rule": "flowers@prod", "protected": True, "max_drop": 5.0}
    assert expected.items() <= row.items()
    shell("alias", "rule", "flowers", "prod", "--clear")
    assert [rule["task"] for rule in shell.json("alias", "ls")] == ["*"]


def test_tasks_are_found_by_name_tag_alias_backbone_and_tenant(shell):
    for task in ("roses", "garden/roses", "garden/tulips"):
        shell.publish(task)
    shell.publish("garden/tulips", "--alias", "prod", lost=1)
    shell("tag", "set", "garden/roses", "team=spring", "ticket=42")
    shell("tag", "set", "garden/tulips:2", "team=spring")

    def found(*options: str) -> list[str]:
        return [row["task"] for row in shell.json("ls", *options)]

    assert found("--search", "ROSE") == ["garden/roses", "roses"]
    assert found("--tag", "team=spring") == ["garden/roses", "garden/tulips"]
    assert found("--tag", "team=spring", "--tag", "ticket=42") == ["garden/roses"]
    assert found("--alias", "prod") == ["garden/tulips"]
    assert found("--backbone", "toy/vit", "--method", "lora", "--tenant", "") == ["roses"]
    assert found("--tenant", "garden") == ["garden/roses", "garden/tulips"]
    shell("tag", "rm", "garden/roses", "team")
    assert shell.json("tag", "ls", "garden/roses") == [{"key": "ticket", "value": "42"}]


def test_pages_follow_each_other_in_every_format(shell):
    for number in range(5):
        shell.publish(f"task-{number}")
    first = shell("ls", "--limit", "2", "--format", "json")
    assert [row["task"] for row in first.json] == ["task-0", "task-1"]
    assert first.err == "more follow: add --after task-1, or --limit 0 for all\n"
    after = shell("ls", "--limit", "3", "--after", "task-1", "--format", "csv")
    assert [row["task"] for row in csv.DictReader(io.StringIO(after.out))] == ["task-2", "task-3", "task-4"]
    assert after.err == ""
    assert len(shell.json("ls", "--limit", "0")) == 5
    assert shell("ls", "--search", "none", "--format", "csv").out == ""


def test_what_rm_says_it_would_free_is_what_gc_then_frees(shell, folder, store):
    shell.publish(lost=0)
    relabel(folder, "ash", "oak", "elm")
    shell.publish("flowers", lost=1)
    said = shell.json("rm", "flowers:1", "--dry-run")
    assert said["versions"] == ["flowers:1"]
    assert len(shell.json("ls", "flowers")) == 2
    assert shell.json("rm", "flowers:1", "--yes") == said
    assert shell.json("gc", "--grace", "0", "--dry-run")["freed_nbytes"] == said["freed_nbytes"]
    before = sum(path.stat().st_size for path in store.root.glob("blobs/*/*/*"))
    freed = shell.json("gc", "--grace", "0", "--yes")
    assert (freed["purged"], freed["freed_nbytes"]) == (["flowers:1"], said["freed_nbytes"])
    assert before - sum(path.stat().st_size for path in store.root.glob("blobs/*/*/*")) == said["freed_nbytes"]
    assert "nothing to restore" in shell("restore", "flowers", "1", code=1).err
    shell("verify")


def test_what_was_removed_comes_back_until_it_is_collected(shell):
    shell.publish(lost=0)
    shell.publish(lost=1)
    kept = shell("ls", "flowers", "--format", "json").out
    shell("rm", "flowers", "--all-versions", "--yes")
    assert shell.json("ls") == []
    assert [row["version"] for row in shell.json("ls", "--removed")] == [1, 2]
    marked = shell.json("gc", "--grace", "14d")
    assert (marked["purged"], marked["freed_nbytes"]) == ([], 0)
    shell("restore", "flowers")
    assert shell("ls", "flowers", "--format", "json").out == kept


@pytest.mark.parametrize(
    "words",
    [
        ["rm", "flowers:1"],
        ["gc", "--grace", "0"],
        ["backbone", "rm", "toy/vit"],
        ["key", "revoke", "ID"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_undone_is_asked_about_and_refused_where_nobody_can_be_asked(shell, store, words):
    shell.publish(lost=0)
    shell.publish(lost=1)
    shell("key", "add")
    if words[0] in ("gc", "backbone"):
        shell("rm", "flowers", "--all-versions", "--yes")
    if words[0] == "backbone":
        shell("gc", "--grace", "0", "--yes")
    (key,) = shell.json("key", "ls")
    words = [key["id"] if word == "ID" else word for word in words]
    before = store.queries.event()
    assert shell(*words, "--dry-run").code == 0
    assert "pass --yes" in shell(*words, code=2).err
    assert store.queries.event() == before
    shell(*words, "--yes")
    assert store.queries.event() != before


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 2), (b"y\n", 0, 1)])
def test_at_a_terminal_it_is_asked_and_the_answer_counts(shell, answer, code, left):
    shell.publish(lost=0)
    shell.publish(lost=1)
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    done = run("rm", "flowers:1", store=shell.root, stdin=theirs)
    assert "remove flowers:1? [y/N]" in done.err
    assert done.code == code
    assert len(shell.json("ls", "flowers")) == left


def test_a_version_that_an_alias_names_is_not_removed(shell):
    shell.publish("flowers", "--alias", "prod")
    assert "has aliases latest, prod" in shell("rm", "flowers:1", "--yes", code=1).err
    assert "1 version uses backbone" in shell("backbone", "rm", "toy/vit", "--yes", code=1).err
