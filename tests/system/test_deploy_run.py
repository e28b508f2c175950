"""deploy/ in use: the very file by `serve deploy`, a cluster in namespaces that loses a node, the image's steps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.nodes import why_no_nodes
from support.processes import importing
from support.servers import find_postgres, find_weed

from serving.cluster.haproxy import find_haproxy

pytestmark = [pytest.mark.deploy, pytest.mark.cluster, pytest.mark.timeout(900)]
MOST_FAILED, MOST_WITHOUT_AN_ANSWER_S, RECOVERED_S = 64, 8.0, 60.0


def rehearse(module: str, *words: str, folder: Path) -> Mapping[str, Any]:
    command = [sys.executable, "-m", f"support.{module}", *words, str(folder)]
    done = subprocess.run(command, env=importing(), capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    report: Mapping[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def need_a_cluster() -> None:
    reason = why_no_nodes()
    if reason is None and (find_postgres() is None or find_weed() is None or find_haproxy() is None):
        reason = "PostgreSQL, SeaweedFS or HAProxy is missing"
    if reason is not None:
        pytest.skip(reason)


def test_serve_deploy_of_the_very_file_answers_who_has_a_key_and_the_log_says_which_version(tmp_path: Path) -> None:
    need_a_cluster()
    report = rehearse("rehearsal", "one", folder=tmp_path)
    assert (report["with_a_key"], report["without_a_key"], report["with_a_wrong_key"]) == (200, 401, 401)
    assert report["dashboard"] == {"its token": 200, "a wrong one": 403, "none": 401}
    assert set(report["load"]["endings"]) == {"right"}
    (version,) = report["which"]["versions"]
    assert (report["which"]["request_id"], version["confirmed"]) == (report["request_id"], True)
    assert version["task"].startswith("team/task-")


def test_a_node_that_loses_its_power_under_load_costs_no_wrong_answer_and_is_replaced(tmp_path: Path) -> None:
    need_a_cluster()
    report = rehearse("rehearsal", "three", folder=tmp_path)
    for part in ("before", "lost", "alone", "back"):
        assert "wrong" not in report[part]["endings"], part
        assert report[part]["endings"]["right"] > 0
    assert set(report["before"]["endings"]) == set(report["alone"]["endings"]) == {"right"}
    assert report["lost"]["requests"] - report["lost"]["endings"]["right"] <= MOST_FAILED
    assert report["longest_without_an_answer_s"] < MOST_WITHOUT_AN_ANSWER_S
    assert report["replicas_again_s"] < RECOVERED_S
    assert "SQLite" in report["sqlite"]
    assert "`catalogue=`" in report["sqlite"]


def test_the_steps_of_the_dockerfile_make_what_serves_as_a_user_without_rights(tmp_path: Path) -> None:
    report = rehearse("image_steps", folder=tmp_path)
    assert report["user"] == "10001"
    assert report["compiler"] == ""
    assert report["writable"] is True
    assert "--keys" in report["command"]
    assert "kernel" in report["doctor"]
