"""The short demo does everything once: it tunes, cuts, stores, accounts, serves and reports."""

from __future__ import annotations

import pytest
from support.cli import run
from support.servers import free_port

import onetrunk

pytestmark = pytest.mark.cluster


def test_demo_quick_leaves_two_served_tasks_and_a_report(tmp_path):
    folder = tmp_path / "demo"
    done = run("demo", "--quick", "--folder", str(folder), "--port", str(free_port()), store=tmp_path / "none")
    assert done.code == 0, done.err
    assert "In process, 20 of 20 images get the same label" in " ".join(done.out.split())
    with onetrunk.open_read_only(folder / "store") as store:
        depths = {version.task: version.manifest.depth for version in store.versions()}
        blocks = store.backbones()[0].blocks
    assert depths.keys() == {"digits", "slant"}
    assert all(1 <= depth <= blocks for depth in depths.values())
    page = (folder / "report.html").read_text("utf-8")
    assert "<svg" in page
    assert "Served over HTTP" in page
