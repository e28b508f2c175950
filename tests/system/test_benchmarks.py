"""Every benchmark can be started, says in its help how, and has its row in docs/benchmarks.md."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import importing

from benchmarks.engine import gpu

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").glob("*/*.py")
    if 'if __name__ == "__main__":' in path.read_text("utf-8")
)
SERVERS = tuple(
    f"benchmarks.serving.{name}" for name in ("peers", "overload", "soak", "flips", "grpc_spread", "console")
)
LONG = (*SERVERS, "benchmarks.serving.score", "benchmarks.sls.fit_many")


@pytest.mark.parametrize(
    "script", ["benchmarks.serving.observability", *(pytest.param(script, marks=pytest.mark.siege) for script in LONG)]
)
def test_a_short_run_writes_its_figures_and_goals(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", script, "--quick", "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, env=importing(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    goals = json.loads((tmp_path / "out.json").read_text())["goals"]
    assert goals
    assert goals[0]["measured"] > 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_parses_its_options_and_its_help_names_its_command(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert f"    python -m {script}\n" in capsys.readouterr().out


def test_the_gpu_script_runs_every_step_tiny_on_a_cpu_and_writes_each(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.engine.gpu", "--cpu", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(out.read_text("utf-8"))["steps"]
    assert list(steps) == list(gpu.STEPS)
    for name, step in steps.items():
        assert step["result"].get("right", True), name
    mixed = steps["ViT-B/16"]["result"]["3 tasks"]["over merged"]
    assert mixed["mixed"]["median"] > 0
    assert mixed["PEFT"]["min"] <= mixed["PEFT"]["max"]


def test_the_gpu_script_goes_on_after_a_step_that_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu, "STEPS", {"first": (0.0, fail), "second": (0.0, lambda _: {"right": True})})
    monkeypatch.setattr(sys, "argv", ["gpu", "--cpu", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 1
    steps = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["steps"]
    assert steps["first"]["error"] == "RuntimeError: no kernel image"
    assert steps["second"]["result"] == {"right": True}


def test_the_page_has_a_row_for_each_benchmark_and_no_other() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    commands = re.findall(r"\| `((?:engine|serving|registry|sls|backbone)\.\w+)`", page)
    assert sorted(f"benchmarks.{command}" for command in commands) == SCRIPTS
