"""How fast the console shows a store of 1,000 tasks: pages from the server, first paint and search in Chromium.

Makes the store, serves it from another process without Ray, and asks for each page again and again over one
connection. Then Debian's Chromium opens the pages: first paint is what the browser itself reports, from the start of
the navigation; a search is from the key press until the table shows its result, the 40 ms that the page waits for
another key included. Without Chromium or Playwright the pages alone are measured. Prints a table; JSON in
benchmarks/results/serving_console.json.

    python -m benchmarks.serving.console
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from support.chromium import FLAGS, console_server, find_chromium
from support.console_store import ConsoleStore, add_many, build

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.options import make_parser

PAGES = {
    "backbone": "/",
    "tasks": "/tasks",
    "search": "/tasks?q=leaf-0",
    "sorted": "/tasks?sort=size&order=desc",
    "task": "/tasks/acme/cars",
    "promotion, dry": "/change/promote?task=acme/cars&alias=prod&version=1",
    "storage, again": "/storage",
    "storage, counted": "/storage?again=1",
    "servers": "/servers",
    "try it": "/try",
}
PAINTED = ("backbone", "tasks", "task", "storage, again", "try it")
FIRST_PAINT_MS, SEARCH_MS = 1000.0, 200.0
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SEARCH = """(text) => new Promise((done) => {
    const input = document.getElementById("q"), start = performance.now();
    const seen = new MutationObserver(() => {
        const names = [...document.querySelectorAll("tbody th")];
        if (!names.length || !names.every((each) => each.textContent.includes(text))) return;
        seen.disconnect();
        requestAnimationFrame(() => done(performance.now() - start));
    });
    seen.observe(document.body, {childList: true, subtree: true});
    input.value = text;
    input.dispatchEvent(new Event("input", {bubbles: true}));
})"""


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        built = build(Path(folder))
        add_many(Path(folder), options.tasks)
        with console_server(built.root, "--keys") as url:
            pages = measure_pages(url, built, options.rounds)
            browser = measure_browser(url, built, options.rounds) if can_browse() else {}
    for name, times in {**pages, **browser}.items():
        print(f"{name:<28} {spread_text(times, '.1f')} ms")
    goals = [
        Goal(f"{name}, ms", times["median"], SEARCH_MS if "search" in name else FIRST_PAINT_MS, most=True)
        for name, times in (browser or pages).items()
    ]
    conclude(options.out, {"machine": machine(), "tasks": options.tasks, "pages": pages, "browser": browser}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="serving_console.json")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15, help="of each page and search")
    parser.add_argument("--quick", action="store_true", help="20 tasks, two rounds")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.rounds = 20, 2
    return options


def can_browse() -> bool:
    return find_chromium() is not None and importlib.util.find_spec("playwright") is not None


def measure_pages(url: str, built: ConsoleStore, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds from the request to the last byte, for each page."""
    times: dict[str, list[float]] = {name: [] for name in PAGES}
    with httpx.Client(base_url=f"{url}/console", timeout=60) as client:
        client.post("/sign-in", data={"key": built.secrets["operator"]})
        for number in range(rounds + 1):  # the first round does not count
            for name, path in PAGES.items():
                start = time.perf_counter()
                client.get(path).raise_for_status()
                if number:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {f"page: {name}": spread(values) for name, values in times.items()}


def measure_browser(url: str, built: ConsoleStore, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds to the first paint of pages, and from a key press to the result of a search."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {f"first paint: {name}": [] for name in PAINTED}
    times["search as one types"] = []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        page = chromium.new_page()
        page.goto(f"{url}/console/sign-in")
        page.fill("#key", built.secrets["operator"])
        page.click("button.primary")
        page.wait_for_url(f"{url}/console/")
        for number in range(rounds + 1):
            for name in PAINTED:
                page.goto(f"{url}/console{PAGES[name]}")
                if number:
                    times[f"first paint: {name}"].append(_painted(page))
            page.goto(f"{url}/console/tasks")
            took = page.evaluate(SEARCH, ("leaf-0", "road-0", "tile-0")[number % 3])
            if number:
                times["search as one types"].append(took)
        chromium.close()
    return {name: spread(values) for name, values in times.items()}


def _painted(page: Any) -> float:
    """Return when the browser painted first; it reports that a moment later."""
    for _ in range(100):
        at = page.evaluate(PAINT)
        if at is not None:
            return float(at)
        page.wait_for_timeout(10)
    raise AssertionError(f"nothing was painted: {json.dumps(page.url)}")


if __name__ == "__main__":
    main()
