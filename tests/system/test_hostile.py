"""Hostile input is refused at once, with little memory and by a typed error of one line."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hostile_folders import FOLDERS
from support.processes import importing
from support.toy_backbone import Toy, publish

import store.errors
from store.errors import FormatError, InvalidNameError, InvalidSettingError, NotFoundError, OnetrunkError
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.records.manifest import Card, Manifest
from store.registry.api_keys import new_key
from store.registry.store import Store

MEMORY = 160 << 20  # bytes that Python may take for any of them; the file itself may be larger
SLOW_S = 5.0
UP = ("..", "../..", "../../etc/passwd", "a/..", "a/../b", "./a", "a/./b", "..\\..\\x", "a\\b", "C:\\x", "\\\\host\\x")
ENCODED = ("..%2f..%2fx", "%2e%2e%2fx", "%252e%252e%252fx", "%25252e%25252e%25252fx", "..%c0%afx", "a%00b", "..%5cx")
URLS = ("file:x", "file:///etc/passwd", "//host/x", "///x", "http://h/x", "a#b", "a#/../b", "a?b", "a;b", "/etc/passwd")
DOTS = ("\u2024\u2024/x", "\uff0e\uff0e\uff0fx", "a\u2215b", "a\u2044b", "\u2025/x", "a\uff0fb", "\u3002\u3002/x")
LETTERS = ("\uff41", "\u0430", "caf\xe9", "\u0661", "\u212a", "\ud800", "\U0001d41a", "a\u0301", "\u0130")
UNSEEN = ("a\0b", "a\n", "\na", "a\r\nb", "a\tb", "a b", " a", "a ", "\x1b[2Ja", "a\x7f", "a\x85", "\u202ea",
          "a\u200fb", "a\u200b", "\ufeffa", "a\u2028b")  # fmt: skip
SHELL = ("$(id)", "`id`", "a|b", "a&b", "a'b", 'a"b', "a*", "~root", "-rf", "--", "<a>", "{a}", "a,b", "a=b", "a+b")
SHAPES = ("", ".", "/", "/a", "a/", "a//b", "a/b/c", ".a", "a..b", "a/.b", "_a", "a" * 129, "a" * 4096,
          "a/" + "b" * 200, "a" * 1_000_000)  # fmt: skip
NAMES = (*UP, *ENCODED, *URLS, *DOTS, *LETTERS, *UNSEEN, *SHELL, *SHAPES)


def one_line(error: BaseException) -> bool:
    text = str(error)
    return text.isprintable() and 0 < len(text) < 3000 and type(error).__module__ == store.errors.__name__


@pytest.fixture(scope="module")
def attacked(toy: Toy, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """The result of publishing each folder, in one process that has little memory."""
    root = tmp_path_factory.mktemp("hostile")
    with Store.open(root / "store", create=True) as opened:
        opened.add_backbone(toy.record, toy.weights)
    subprocess.run(["cp", "-r", tuned, root / "task"], check=True)
    program = [sys.executable, "-m", "support.publish_hostile", str(root / "store"), str(root / "task")]
    done = subprocess.run(program, env=importing(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with Store.open(root / "store") as opened:
        assert opened.versions() == []
        assert verify(opened) == []
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["case"]: row for row in rows}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_hostile_folder_is_refused_in_one_line_with_little_memory(
    attacked: dict[str, dict[str, object]], case: str
) -> None:
    row = attacked[case]
    error, message = str(row["error"]), str(row["message"])
    assert issubclass(getattr(store.errors, error, object), OnetrunkError), row
    assert message.isprintable()
    assert len(message) < 1000
    assert int(str(row["peak"])) < MEMORY, row
    assert float(str(row["seconds"])) < SLOW_S, row


def test_there_are_enough_of_them() -> None:
    assert len(FOLDERS) >= 100
    assert len(set(NAMES)) == len(NAMES) >= 90


USES: dict[str, Callable[[Store, Path, str], object]] = {
    "task": lambda s, folder, name: publish(s, folder, name),
    "alias at publish": lambda s, folder, name: publish(s, folder, aliases=(name,)),
    "alias": lambda s, _folder, name: s.set_alias("flowers", name, 1),
    "alias taken away": lambda s, _folder, name: s.remove_alias("flowers", name),
    "rollback": lambda s, _folder, name: s.rollback("flowers", name),
    "tag": lambda s, _folder, name: s.set_tag("flowers", name, "x"),
    "history": lambda s, _folder, name: s.history(name),
    "ref": lambda s, _folder, name: s.resolve(name),
    "ref's alias": lambda s, _folder, name: s.resolve(f"flowers@{name}"),
    "ref to export": lambda s, folder, name: s.export(name, folder / "out"),
    "ref to remove": lambda s, _folder, name: s.remove(name),
    "task to remove": lambda s, _folder, name: s.remove(name, all_versions=True),
    "restore": lambda s, _folder, name: s.restore(name),
    "tenant": lambda _s, _folder, name: new_key(name, ("read",)),
}


@pytest.mark.parametrize("use", USES)
def test_a_hostile_name_is_refused_wherever_a_name_is_taken(store: Store, folder: Path, use: str) -> None:
    publish(store, folder)
    before = sorted(store.root.rglob("*"))
    for name in NAMES:
        with pytest.raises(InvalidNameError) as caught:
            USES[use](store, folder, name)
        assert one_line(caught.value), name
    assert sorted(store.root.rglob("*")) == before
    assert store.aliases("flowers") == {"latest": 1}
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_hostile_backbone_name_finds_nothing_and_is_not_taken(store: Store, toy: Toy, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.backbone(name)
    assert one_line(caught.value)
    if re.fullmatch(r"[a-z][a-z0-9._:/-]{0,255}", name) and ".." not in name:
        return  # a name of a model elsewhere, such as hf-hub:timm/vit; never a path of ours
    with pytest.raises(InvalidNameError) as refused:
        dataclasses.replace(toy.record, name=name)
    assert one_line(refused.value)


@pytest.mark.parametrize(
    "address",
    ["file:///etc", "http://host/x", "ftp://h/x", "s3://", "s3:///x", "s3://b/../x", "s3://b/%2e%2e/x", "s3://b?x=y",
     "s3://b/x#y", "s3://u:hunter2@b/x", "s3://B/x", "gs://b//x", "az://b/a b", "s3://b/\u202e", "a\0b", "", "S3://b/x",
     "s3+http://b/x", "s3://b/./x", "s3://b\\x"],
)  # fmt: skip
def test_a_hostile_address_of_a_store_opens_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettingError) as caught:
        Store.open(address, create=True)
    assert one_line(caught.value)
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["", "\n", "a\0", "x" * 301, "\x1b[2J", "\u202e", "\ud800", "a\u2028"])
def test_a_hostile_value_of_a_tag_is_refused(store: Store, folder: Path, value: str) -> None:
    publish(store, folder)
    with pytest.raises(InvalidNameError) as caught:
        store.set_tag("flowers", "note", value)
    assert one_line(caught.value)


def manifest(store: Store, folder: Path) -> dict[str, object]:
    return dict(json.loads(publish(store, folder).manifest.to_json()))


RECORDS: dict[str, Callable[[dict[str, object]], bytes]] = {
    "an unknown key": lambda m: json.dumps({**m, "run": 1}).encode(),
    "a missing key": lambda m: json.dumps({k: v for k, v in m.items() if k != "head"}).encode(),
    "a task that is a path": lambda m: json.dumps({**m, "task": "../../x"}).encode(),
    "a digest that is a path": lambda m: json.dumps(m).replace('"sha256": "', '"sha256": "../').encode(),
    "a digest in capitals": lambda m: json.dumps(m).upper().encode(),
    "a negative size": lambda m: json.dumps(m).replace('"nbytes": ', '"nbytes": -').encode(),
    "a size that is NaN": lambda m: json.dumps({**m, "certificate": {"full": float("nan")}}).encode(),
    "a number of 5000 digits": lambda m: json.dumps(m).replace('"nbytes": ', '"nbytes": 1' + "0" * 5000).encode(),
    "deep JSON": lambda _: b"[" * 1_000_000,
    "a deep value": lambda m: json.dumps(m)[:-1].encode() + b', "certificate": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a key twice": lambda m: json.dumps(m)[:-1].encode() + b', "task": "cars"}',
    "a list": lambda m: json.dumps([m]).encode(),
    "UTF-16": lambda m: json.dumps(m).encode("utf-16"),
    "a lone surrogate": lambda m: json.dumps({**m, "backbone_name": "\ud800"}).encode(),
    "a format of tomorrow": lambda m: json.dumps({**m, "format": 99}).encode(),
    "a format that is true": lambda m: json.dumps({**m, "format": True}).encode(),
    "a format below 1": lambda m: json.dumps({**m, "format": 0}).encode(),
    "nothing": lambda _: b"",
    "a pickle": lambda _: b"\x80\x04cos\nsystem\n.",
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
def test_a_hostile_manifest_is_refused(
    store: Store, folder: Path, change: Callable[[dict[str, object]], bytes]
) -> None:
    data = change(manifest(store, folder))
    for read in (Manifest.from_json, Card.from_json):
        with pytest.raises((FormatError, InvalidNameError)) as caught:
            read(data)
        assert one_line(caught.value)


@pytest.mark.parametrize(
    "around", ["{}", '{{"certificate": {}}}', '{{"prune_index": {{"scores": {}}}, "backbone": "x"}}'], ids=str
)
def test_json_of_any_depth_is_refused(around: str) -> None:
    for depth in range(1, 1001):
        with pytest.raises(FormatError) as caught:
            Card.from_json(around.format("[" * depth + "]" * depth).encode())
        assert one_line(caught.value), depth


@pytest.mark.parametrize(
    "sha256", ["../../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n", "\uff10" * 64]
)
def test_a_digest_that_is_none_names_no_file(sha256: str) -> None:
    with pytest.raises(FormatError):
        Blob(sha256, 1)


def test_what_is_quoted_for_a_url_is_refused_as_a_name_however_often(store: Store) -> None:
    text = "../x"
    for _ in range(6):
        with pytest.raises(InvalidNameError):
            store.resolve(text)
        text = urllib.parse.quote(text.replace(".", "%2e"), safe="")
