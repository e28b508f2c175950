from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.cpus import usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine of eight cores, on all of which this process may run, with no limit by a cgroup yet."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    return tmp_path


def count(machine: Path) -> int:
    return usable_cores(own=machine / "own", root=machine / "root")


def test_without_a_limit_the_affinity_counts(machine):
    assert count(machine) == 8


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_quota_counts_whole_cores_and_at_least_one(machine, limit, cores):
    (machine / "root" / "a" / "b" / "cpu.max").write_text(limit + "\n")
    assert count(machine) == cores


@pytest.mark.parametrize("folder", ["a", "."])
def test_the_smallest_quota_of_the_cgroups_above_counts(machine, folder):
    (machine / "root" / "a" / "b" / "cpu.max").write_text("400000 100000\n")
    (machine / "root" / folder / "cpu.max").write_text("300000 100000\n")
    assert count(machine) == 3


def test_version_1_has_its_quota_in_two_files(machine):
    (machine / "own").write_text("5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    group = machine / "root" / "cpu" / "docker" / "x"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("400000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert count(machine) == 4
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert count(machine) == 8


def test_in_a_container_whose_cgroup_is_named_by_the_host_the_root_counts(machine):
    (machine / "own").write_text("0::/host/only\n")
    (machine / "root" / "cpu.max").write_text("200000 100000\n")
    assert count(machine) == 2


@pytest.mark.parametrize("text", ["", "nonsense", "0 0"])
def test_what_cannot_be_read_is_no_limit(machine, text):
    (machine / "root" / "a" / "b" / "cpu.max").write_text(text)
    assert count(machine) == 8


def test_a_system_without_cgroups_has_no_limit(machine):
    (machine / "own").unlink()
    assert count(machine) == 8
