"""Debian's Chromium, driven by Playwright; what its pages do wrong is noted."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.processes import importing
from support.servers import free_port

START_S = 60.0
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def axe_source() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


@dataclass
class Faults:
    """What a page must not do: print errors, throw them, or ask anything of another machine."""

    origin: str
    found: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on("console", lambda m: self._note(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._note(f"thrown: {error}"))
        page.on("dialog", lambda dialog: self._note(f"dialog: {dialog.message}"))
        page.on("request", lambda r: None if r.url.startswith((self.origin, "blob:")) else self._note(f"to {r.url}"))

    def _note(self, fault: str) -> None:
        self.found.append(fault)


def violations(page: Any, source: str) -> list[str]:
    """Return what axe-core finds on the page, of levels A and AA."""
    # The debugger's call, unlike a script tag, is not under the page's own policy.
    expression = f"{source}; axe.run(document, {{runOnly: {json.dumps(LEVELS)}}}).then(JSON.stringify)"
    session = page.context.new_cdp_session(page)
    answer = session.send("Runtime.evaluate", {"expression": expression, "awaitPromise": True})
    found = json.loads(answer["result"]["value"])["violations"]
    return [f"{rule['id']}: {node['target']}" for rule in found for node in rule["nodes"]]


@contextlib.contextmanager
def console_server(root: Path, *options: str) -> Iterator[str]:
    """Serve the store with its console from another process; give the address."""
    port = free_port()
    command = [sys.executable, "-m", "support.console_server", str(root), str(port), *options]
    process = subprocess.Popen(command, env=importing())
    url = f"http://localhost:{port}"
    try:
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=5):
                break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()
