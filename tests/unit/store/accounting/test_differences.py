from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from store.accounting.differences import compare_reports, read_report
from store.accounting.report import storage_report
from store.errors import FormatError, NewerFormatError, NotFoundError
from store.registry.store import Store


def saved(store: Store, path: Path) -> Path:
    path.write_text(json.dumps(storage_report(store).to_json()))
    return path


def test_the_reasons_add_up_to_the_change_to_the_byte(teams: Store, folder: Path, tmp_path: Path) -> None:
    old = read_report(saved(teams, tmp_path / "old.json"))
    publish(teams, relabel(folder, "new", "b", "c"), "birds")
    publish(teams, relabel(folder, "newer", "b", "c"), "acme/cars")
    teams.remove("acme/cars:1")
    teams.remove("garden/roses", all_versions=True)
    (teams.root / "notes.txt").write_bytes(b"12345")
    found = compare_reports(old, storage_report(teams))
    assert found.same_store
    assert found.change_nbytes == sum(reason.change_nbytes for reason in found.reasons)
    assert found.change_nbytes == storage_report(teams).total_nbytes - old["places"]["physical_nbytes"]
    why = {(reason.what, reason.subject): reason for reason in found.reasons}
    assert why["task", "birds"].why == "new task, 1 versions published"
    assert why["task", "acme/cars"].why == "1 versions published, 1 versions removed"
    assert why["task", "garden/roses"].why == "task removed, 1 versions removed"
    assert why["garbage", ""].change_nbytes == 5
    assert "reclaimable" in {reason.what for reason in found.reasons}


def test_nothing_changed_gives_no_reason(teams: Store, tmp_path: Path) -> None:
    found = compare_reports(read_report(saved(teams, tmp_path / "old.json")), storage_report(teams))
    assert (found.change_nbytes, found.reasons) == (0, ())


def test_a_report_of_another_store_is_compared_and_said_to_be_so(teams: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other", create=True) as other:
        found = compare_reports(read_report(saved(other, tmp_path / "old.json")), storage_report(teams))
    assert not found.same_store
    assert ("backbone", "toy/vit", "added") in {(r.what, r.subject, r.why) for r in found.reasons}


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("not json", FormatError, "is not a report"),
        ("[1]", FormatError, "is not a report"),
        ('{"format": true}', FormatError, "is not a report"),
        ('{"format": 1, "total_nbytes": 5}', FormatError, "has format 1, which lacks what a comparison needs"),
        ('{"format": 999}', NewerFormatError, "has format 999, this onetrunk reads up to"),
        ("[" * 100_000, FormatError, "is not a report"),
    ],
)
def test_what_is_not_a_report_is_refused(tmp_path: Path, text: str, error: type[Exception], told: str) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(error, match=told):
        read_report(tmp_path / "old.json")


@pytest.mark.parametrize("key", ["places", "tasks", "versions", "backbones", "store"])
@pytest.mark.parametrize("value", [None, "x", [1], {"x": 1}])
def test_a_report_that_lacks_something_is_refused(teams: Store, key: str, value: object) -> None:
    report = storage_report(teams)
    old = {**report.to_json(), key: value}
    if key == "store":
        del old[key]
    with pytest.raises(FormatError, match=r"old\.json lacks a key that a report has"):
        compare_reports(old, report, "old.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none.json cannot be read \(No such file or directory\)"):
        read_report(tmp_path / "none.json")
