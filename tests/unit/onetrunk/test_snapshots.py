"""What users see, kept as files: help, error lines, the report, the schema of the HTTP API."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from support.cli import Done, call, commands
from support.mistakes import World
from support.snapshots import check_snapshot, masked

from onetrunk.cli.app import assemble

MISTAKES = """
shwo
show flower
show flowers:7
show flowers@staging
show flowers@sha256:0000000000000000000000000000000000000000000000000000000000000000
show ../flowers
show flowers@
show flowers --at yesterday
show flowers --at 2001-01-01
ls roses
ls flowers --search rose
ls --tag team
history roses
diff flowers flowers:9
publish roses INPUT/nowhere --backbone toy/vit
publish roses INPUT/empty --backbone toy/vit
publish roses INPUT/right
publish roses INPUT/right --backbone no/such
publish roses INPUT/right --backbone toy/vit --depth 9
publish roses INPUT/right --backbone toy/vit --depth 2 --parent flowers:9
publish roses INPUT/carded --code-commit main
publish roses INPUT/carded --backbone other/vit
publish roses INPUT/torn --backbone toy/vit --depth 2
publish roses INPUT/another_rank --backbone toy/vit --depth 2
publish roses INPUT/headless --backbone toy/vit --depth 2
publish roses INPUT/two_labels --backbone toy/vit --depth 2
publish roses INPUT/no_JSON --backbone toy/vit --depth 2
publish a/b/c INPUT/right --backbone toy/vit --depth 2
import INPUT/right
import INPUT/nowhere.bundle
import INPUT/text.png
export flowers garden/trees INPUT/out
export flowers INPUT/right
rm flowers
rm flowers:9
rm flowers:2 --yes
restore flowers 1
rollback flowers prod --force
alias set flowers prod 2
alias set flowers prod 9 --force
alias set flowers ../prod 1
alias rule flowers prod
alias rule flowers latest --protect
alias rule flowers prod --max-drop 200
tag set flowers team
key add --scope write
key revoke 0123
gc --grace soon
rebuild
migrate --store INPUT/nowhere
backbone show no/such
backbone rm toy/vit --yes
backbone add toy/other --weights INPUT/nowhere.safetensors
backbone add toy/other --arg img_size
predict flowers INPUT/nowhere.png
predict flowers INPUT/text.png
predict flowers INPUT/text.png --url http://127.0.0.1:1
fit roses INPUT/nowhere.npz
fit roses onetrunk/digits --parity --criterion ridge
fit roses onetrunk/digits --no-publish
fit roses onetrunk/digits --criterion nope
fit roses onetrunk/digits --when before --retune head
serve --port 99999
ls --store INPUT/nowhere
ls --catalogue sqlite://
publish roses INPUT/right --actor a\tb
"""
"""A command a line; `INPUT/` is the folder of right and wrong inputs."""


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("ONETRUNK_ACTOR", "ann@host")


def shell(world: World, line: str) -> Done:
    words = [word.replace("INPUT", str(world.root)) for word in line.split(" ")]
    return call(*words, store=world.store)


@pytest.mark.parametrize("words", [(), *commands(assemble())], ids=lambda words: " ".join(words) or "onetrunk")
def test_help(words, tmp_path):
    done = call(*words, "--help", store=tmp_path)
    check_snapshot(f"help/{'-'.join(words) or 'onetrunk'}.txt", done.out)


def test_error_lines(world):
    lines = []
    for line in MISTAKES.strip().splitlines():
        done = shell(world, line)
        assert (done.code in (1, 2), done.out) == (True, ""), line
        lines.append(f"$ onetrunk {line.expandtabs()}\n{done.err.rstrip()}\n[{done.code}]\n")
    check_snapshot("errors.txt", masked("\n".join(lines), store=world.store, input=world.root))


@pytest.mark.parametrize("form", ["table", "md"])
def test_report(world, form):
    done = shell(world, f"report --format {form}")
    text = re.sub(r"\d+(?:[.,]\d+)*", "N", done.out + done.err)  # sizes of the database differ from machine to machine
    text = re.sub(r"\bN tasks\b|\bnever\b", "K", text)  # and so does from how many tasks on they pay
    text = re.sub(r"(.*N-N-NTN:N:N.*\n)+", "a row for each second\n", text)  # one or two, as the store was made
    check_snapshot(f"report.{form}", re.sub(r"─+", "─", re.sub(r" {2,}", "  ", text)))


def test_schema_of_the_http_api():
    from serving.http.api import make_api  # torch is loaded here alone

    predictor = SimpleNamespace(versions=None, records=(), usage=None)  # which the schema does not depend on
    schema = make_api(predictor, None, keys=True).openapi()
    check_snapshot("openapi.json", json.dumps(schema, indent=1, sort_keys=True) + "\n")
