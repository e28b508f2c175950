"""deploy/ as the tools of those who run it read it: kubectl, Kubernetes's schemas, hadolint, systemd, promtool, wrk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.http_server import http_server
from support.oracle import png
from support.random_store import random_store
from torch import full, uint8

pytestmark = pytest.mark.deploy
ROOT = Path(__file__).parents[2]
DEPLOY, GOLDEN = ROOT / "deploy", ROOT / "tests" / "golden"
IMAGE = png(full((64, 64, 3), 90, dtype=uint8))


def tool(name: str) -> str:
    """Return the program, beside this Python or on the path; without it the test is skipped, and says so."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `make deploy-check` installs it where that can be done")
    return found


def run(*command: str | Path, cwd: Path = DEPLOY, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_an_overlay_renders_to_what_kubernetes_and_kuberay_take(overlay: str, tmp_path: Path) -> None:
    text = run(tool("kubectl"), "kustomize", f"kubernetes/overlays/{overlay}")
    (tmp_path / "all.yaml").write_text(text)
    documents = list(yaml.safe_load_all(text))
    (service,) = (each for each in documents if each["kind"] == "RayService")
    schema = json.loads((GOLDEN / "kuberay-rayservice-1.7.0.json").read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(service)) == []
    environment = {each["metadata"]["name"] for each in documents if each["kind"] == "ConfigMap"}
    for group in (service["spec"]["rayClusterConfig"]["headGroupSpec"],
                  *service["spec"]["rayClusterConfig"]["workerGroupSpecs"]):  # fmt: skip
        (container,) = group["template"]["spec"]["containers"]
        assert {each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each} == environment
    run(tool("kubernetes-validate"), "--strict", tmp_path / "all.yaml")


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    run(tool("hadolint"), "Dockerfile")


def test_systemd_takes_the_unit_and_finds_little_that_is_open(tmp_path: Path) -> None:
    unit = tmp_path / "onetrunk.service"
    unit.write_text(
        (DEPLOY / "systemd/onetrunk.service").read_text().replace("/opt/onetrunk/bin/onetrunk", "/bin/true")
    )
    run(tool("systemd-analyze"), "verify", unit)
    run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", unit)


def test_promtool_takes_the_configuration_and_the_rules_pass_their_tests() -> None:
    run(tool("promtool"), "check", "config", "prometheus.yml", cwd=DEPLOY / "prometheus")
    run(tool("promtool"), "test", "rules", "rules_test.yml", cwd=DEPLOY / "prometheus")


def test_the_load_test_measures_a_server_and_fails_where_it_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(IMAGE)
    with random_store(tmp_path / "made", ("team/cars", 2)) as store:
        root = str(store.root)
    with http_server(root, IMAGE) as server:
        wrk = [tool("wrk"), "--threads", "1", "--connections", "4", "--duration", "2s", "--latency",
               "--script", str(DEPLOY / "load/predict.lua"), f"http://127.0.0.1:{server.port}"]  # fmt: skip
        asked = {"IMAGE": str(tmp_path / "image.png"), "MAX_FAILED": "0"}
        said = json.loads(run(*wrk, **asked, TASKS="team/cars").splitlines()[-1])
        assert said["answered"] > 0
        assert said["failed"] == 0
        for wrong in ({"TASKS": "team/none"}, {"TASKS": "team/cars", "MAX_P99_MS": "0"}):
            done = subprocess.run(wrk, env={**os.environ, **asked, **wrong}, capture_output=True, check=False)
            assert done.returncode == 1
