"""Versions compared, carried away, checked and mended, through the command line alone."""

from __future__ import annotations

import tarfile
from pathlib import Path

import support
from peft import PeftConfig
from support.cli import call
from support.toy_backbone import relabel, tune

from store.registry.store import Store

GOLDEN = Path(support.__file__).parents[1] / "golden" / "store-format-1.tar.gz"


def test_diff_tells_what_another_cut_and_other_labels_changed(shell, folder):
    shell.publish(lost=0)
    relabel(folder, "tulip", "rose", "oak")
    shell.publish(lost=4)
    rows = {row["field"]: (row["left"], row["right"]) for row in shell.json("diff", "flowers:1", "flowers:2")}
    assert rows["labels in one alone"] == (["poppy"], ["oak"])
    assert rows["labels in another order"] == (["rose", "tulip"], ["tulip", "rose"])
    assert [side["correct"] for side in rows["accuracy cut"]] == [90, 86]
    assert "depth" not in rows
    assert "90.0% [82.6%, 94.5%] on 100 held-out images" in shell("diff", "flowers:1", "flowers:2").out
    same = shell("diff", "flowers:1", "flowers:1")
    assert (same.out, same.err) == ("", "no difference\n")


def test_a_bundle_brings_versions_and_their_backbone_to_another_store(shell, tmp_path):
    shell.publish("flowers", lost=0)
    shell.publish("garden/trees", lost=1)
    shell("export", "flowers", "garden/trees@latest", str(tmp_path / "all.bundle"), "--bundle")
    other = tmp_path / "other"
    done = call("import", str(tmp_path / "all.bundle"), "--alias", "prod", "--format", "json", store=other)
    assert [(row["task"], row["aliases"]) for row in done.json] == [
        ("flowers", ["latest", "prod"]), ("garden/trees", ["latest", "prod"]),
    ]  # fmt: skip
    assert call("verify", store=other).code == 0
    assert (
        call("show", "flowers", "--format", "json", store=other).out == shell("show", "flowers", "--format", "json").out
    )
    again = call("import", str(tmp_path / "all.bundle"), "--alias", "prod", "--format", "json", store=other)
    assert again.json == done.json


def test_a_folder_goes_out_in_the_hubs_layout_and_comes_in_under_another_name(shell, tmp_path):
    shell.publish(lost=0)
    shell("export", "flowers", str(tmp_path / "hub"), "--layout", "hub")
    assert "flowers" in (tmp_path / "hub" / "README.md").read_text()
    assert PeftConfig.from_pretrained(tmp_path / "hub").peft_type == "LORA"
    shell("import", str(tmp_path / "hub"), "--as", "blumen")
    rows = shell.json("diff", "flowers", "blumen")
    assert {row["field"] for row in rows} == {"task", "nbytes"} - (
        {"nbytes"} if len("flowers") == len("blumen") else set()
    )


def test_lineage_says_the_parent_by_its_digest_and_the_commit(shell):
    first = shell.publish(lost=0)
    for lost in (None, 2):  # without a card, and with one
        made = shell.publish("flowers", "--parent", "flowers:1", "--code-commit", "0123abc-dirty", lost=lost)
        manifest = shell.json("show", f"flowers:{made['version']}")
        lineage = manifest["lineage"]
        assert lineage["parent"] == f"flowers@sha256:{first['digest']}"
        assert lineage["code_commit"] == "0123abc-dirty"
        assert manifest["prune_index"] == {**manifest["prune_index"], "depth": 2, "blocks": 4, "criterion": "given"}


def test_verify_tells_which_task_is_hurt_and_sets_the_blob_aside(shell, store):
    shell.publish(lost=0)
    blob = Path(store.blobs.locate(store.resolve("flowers").manifest.adapter.weights))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    found = shell("verify", code=1)
    assert "adapter weights of flowers:1" in found.out
    shell("verify", "--metadata")
    shell("verify", "--quarantine", code=1)
    assert not blob.exists()
    shell.publish(lost=0)
    shell("verify")


def test_a_lost_catalogue_is_rebuilt_with_the_same_answers(shell, store):
    shell.publish("flowers", "--alias", "prod", lost=0)
    shell.publish("flowers", lost=1)
    shell.publish("garden/trees")
    shell("alias", "rule", "flowers", "prod", "--protect")
    shell("tag", "set", "flowers:1", "team=garden")
    shell("key", "add", "--tenant", "garden")
    shell("rm", "flowers", "--dry-run", "--all-versions", code=1)
    asked = (
        ["ls"],
        ["ls", "flowers"],
        ["history", "flowers"],
        ["alias", "ls", "flowers"],
        ["key", "ls"],
        ["show", "flowers"],
    )
    before = [shell(*words, "--format", "json").out for words in asked]
    store.close()
    for path in store.root.glob("catalogue.sqlite*"):
        path.unlink()
    assert "onetrunk rebuild" in shell("ls", code=1).err
    assert shell.json("rebuild")["versions"] == 3
    assert [shell(*words, "--format", "json").out for words in asked] == before
    shell("verify")


def test_a_store_of_the_first_format_is_migrated_and_told_so_before(tmp_path):
    root = tmp_path / "store"
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(root, filter="data")
    assert "(onetrunk migrate)" in call("ls", store=root).err
    assert call("migrate", "--dry-run", "--format", "json", store=root).json == {"from": 1, "to": 2}
    assert call("migrate", store=root).code == 2
    assert call("migrate", "--yes", "--format", "json", store=root).json == {"from": 1, "to": 2}
    assert call("verify", store=root).code == 0
    assert call("ls", "--format", "json", store=root).json != []


def test_the_secret_of_a_key_is_shown_once_and_a_revoked_key_is_listed_so(shell, store):
    made = shell("key", "add", "--tenant", "garden", "--scope", "publish", "--scope", "read")
    secret = made.out.strip()
    (row,) = shell.json("key", "ls")
    assert (row["tenant"], row["scopes"], row["revoked_at"]) == ("garden", ["read", "publish"], None)
    assert secret not in made.err
    assert secret.encode() not in b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    shell("key", "revoke", row["id"], "--yes")
    assert shell.json("key", "ls", "--tenant", "garden")[0]["revoked_at"] is not None


def test_leases_tell_who_holds_which_versions(shell, store):
    digest = shell.publish(lost=0)["digest"]
    store.lease([str(digest)], holder="replica 1", ttl_s=60)
    (row,) = shell.json("leases")
    assert (row["holder"], row["versions"]) == ("replica 1", ["flowers:1"])


def test_a_catalogue_elsewhere_is_named_by_its_url(toy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    url = ("--catalogue", f"sqlite:///{tmp_path}/elsewhere/c.sqlite")
    folder = tune(tmp_path / "task", depth=2)
    with Store.open(tmp_path / "store", create=True, catalogue=url[1]) as store:
        store.add_backbone(toy.record, toy.weights)
    publish = ("publish", "flowers", str(folder), "--backbone", "toy/vit", "--depth", "2")
    assert call(*publish, *url, store=tmp_path / "store").code == 0
    assert [row["task"] for row in call("ls", "--format", "json", *url, store=tmp_path / "store").json] == ["flowers"]
    assert not (tmp_path / "store" / "catalogue.sqlite").exists()
