"""What `doctor` and `bench` say of the kernel that runs."""

from __future__ import annotations

import json

import pytest
from support.cli import call

from serving.kernel.instruction_sets import SETTING, choose_kernel
from serving.kernel.variants import COOPERLAKE

SMALL_BENCH = ("bench", "--quick", "--tasks", "1", "--rounds", "2")


def doctor(store, *, code: int = 0) -> dict[str, object]:
    done = call("doctor", "--port", "0", "--format", "json", store=store)
    assert done.code == code
    (check,) = (check for check in json.loads(done.out) if check["what"] == "kernel")
    return check


def test_doctor_says_in_one_line_what_runs_here_and_why(tmp_path, monkeypatch):
    monkeypatch.delenv(SETTING, raising=False)
    assert doctor(tmp_path) == {"what": "kernel", "ok": True, "found": str(choose_kernel()), "remedy": ""}


def test_doctor_says_in_a_table_that_the_kernel_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, "off")
    assert "none, torch runs instead: off by ONETRUNK_KERNEL=off" in call("doctor", "--port", "0", store=tmp_path).out


@pytest.mark.parametrize("features", [COOPERLAKE, frozenset({"sse2"})])
def test_doctor_says_why_torch_runs_where_nothing_was_built_or_the_cpu_is_too_old(tmp_path, monkeypatch, features):
    (tmp_path / "cpuinfo").write_text(f"flags\t: {' '.join(features)}\n")
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setitem(choose_kernel.__kwdefaults__, "cpu_info", tmp_path / "cpuinfo")
    monkeypatch.setitem(choose_kernel.__kwdefaults__, "libraries", tmp_path)
    why = {
        COOPERLAKE: "its library is missing: reinstall onetrunk",
        frozenset({"sse2"}): "this CPU has neither AMX nor AVX512-BF16",
    }[features]
    check = doctor(tmp_path)
    assert (check["ok"], check["found"]) == (True, f"none, torch runs instead: {why}")


def test_doctor_fails_where_the_setting_names_no_kernel_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, "sse")
    check = doctor(tmp_path, code=1)
    assert (check["ok"], check["remedy"]) == (False, "unset ONETRUNK_KERNEL")
    assert "'sse' is not a kernel" in check["found"]


def test_bench_names_the_kernel_before_it_measures_and_with_each_figure(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, "off")
    done = call(*SMALL_BENCH, "--format", "json", store=tmp_path)
    assert done.err.startswith("kernel: none, torch runs instead: off by ONETRUNK_KERNEL=off\n")
    assert {row["kernel"] for row in done.json} == {"torch"}


def test_bench_refuses_an_unknown_kernel_before_it_measures(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, "sse")
    done = call(*SMALL_BENCH, store=tmp_path)
    assert done.code == 2
    assert "'sse' is not a kernel" in done.err
