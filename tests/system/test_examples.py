"""Every example runs as its docstring says, and prints what it is there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from support.servers import free_port

import onetrunk

EXAMPLES = Path(onetrunk.__file__).parents[1] / "examples"
pytestmark = pytest.mark.cluster
SHORT = (
    "onetrunk.FitConfig(tune=onetrunk.TrainingConfig(epochs=1), retune=onetrunk.TrainingConfig(epochs=1), "
    'score=onetrunk.ScoreConfig(criterion="ridge"))'
)


def run(name: str, *arguments: str, folder: Path) -> str:
    """Run an example from an empty folder, as a user would."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run_here():
    tested = set(re.findall(r'run\(\n?\s*"(\w+\.py)"', Path(__file__).read_text("utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_the_first_python_of_the_readme_runs_with_less_data_and_fewer_epochs(tmp_path):
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    (block, *_) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 8
    block, datasets = re.subn(r'load_dataset\("onetrunk/digits"\)', 'load_dataset("onetrunk/digits", limit=60)', block)
    block, fits = re.subn(r'aliases=\("prod",\)\)', f'aliases=("prod",), config={SHORT})', block)
    assert (datasets, fits) == (1, 1)
    (tmp_path / "readme.py").write_text(block, "utf-8")
    first, second = run(str(tmp_path / "readme.py"), folder=tmp_path).splitlines()
    assert re.fullmatch(r"\d+ blocks, [\d,]+ bytes, \d+\.\d%", first)
    assert second.count("LabelScore(") == 3


def test_fit_and_serve(tmp_path):
    lines = run("fit_and_serve.py", "work", str(free_port()), folder=tmp_path).splitlines()
    assert [line.split(" runs ")[0] for line in lines[:2]] == ["digits:1", "slant:1"]
    assert [line.split(" says ")[0] for line in lines[-2:]] == ["digits:1", "slant:1"]


def test_publish_peft(tmp_path):
    lines = run("publish_peft.py", ".", folder=tmp_path).splitlines()
    assert lines[0].startswith("shapes:1 sha256:")
    assert [line.split(": ")[1] for line in lines[1:]] == ["the same bytes"] * 4


def test_two_tenants_see_their_own_and_a_client_asks_with_a_key(tmp_path):
    lines = run("two_tenants.py", ".", str(free_port()), folder=tmp_path).splitlines()
    own, refused = [lines[0], lines[3]], [lines[1], lines[2]]
    assert [line.split(": ")[0] for line in own] == ["garden asks for garden/slant", "zoo asks for zoo/slant"]
    assert all("404" in line for line in refused)


def test_client_asks_a_server_that_runs(tmp_path):
    run("publish_peft.py", ".", folder=tmp_path)
    image = BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(image, "PNG")
    (tmp_path / "red.png").write_bytes(image.getvalue())
    port = free_port()
    with onetrunk.serve(str(tmp_path / "store"), port=port):
        url = f"http://127.0.0.1:{port}"
        (line,) = run("client.py", url, "shapes@prod", "red.png", folder=tmp_path).splitlines()
    assert re.fullmatch(r"red\.png: (circle|square|triangle) .* \(shapes:1, 8 blocks\)", line)
