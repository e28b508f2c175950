"""The console in a real Chromium: every page, in light, dark and at a phone's width, and what people do there."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.chromium import FLAGS, Faults, axe_source, console_server, find_chromium, violations
from support.console_store import ConsoleStore, build

from store.registry.api_keys import new_key
from store.registry.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed: apt-get install chromium"),
]
PAGES = (
    "/", "/tasks", "/tasks?q=zebra", "/tasks/acme/cars", "/tasks/acme/birds", "/tasks/acme/plain",
    "/tasks/garden/roses", "/compare?task=acme/cars&left=1&right=3",
    "/change/promote?task=acme/cars&alias=prod&version=3", "/change/promote?task=acme/cars&alias=prod&version=1",
    "/change/remove?task=acme/plain", "/storage", "/servers", "/try",
)  # fmt: skip
SCREENS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True},
}
CONTROLS = "a[href], button, input:not([type=hidden]), select, summary"
PLACE = f"[...document.querySelectorAll('{CONTROLS}')].indexOf(document.activeElement)"
ZONE = {"timezone_id": "Asia/Tokyo", "locale": "en-GB"}


@dataclass
class World:
    """A console that answers, its keys, and a browser."""

    url: str
    built: ConsoleStore
    chromium: Any
    axe: str

    def open(self, key: str | None, **options: Any) -> tuple[Any, Faults]:
        """Return a page of a new browser context, signed in with the key of this name, and what is noted of it."""
        page = self.chromium.new_context(**{**SCREENS["light"], **ZONE, **options}).new_page()
        page.set_default_timeout(60_000)
        faults = Faults(self.url)
        faults.watch(page)
        if key is not None:
            self.sign_in(page, self.built.secrets[key])
        return page, faults

    def sign_in(self, page: Any, secret: str) -> None:
        page.goto(f"{self.url}/console/sign-in")
        page.get_by_label("API key").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{self.url}/console/")

    def go(self, page: Any, path: str) -> None:
        page.goto(f"{self.url}/console{path}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    built = build(tmp_path_factory.mktemp("browser"))
    with console_server(built.root, "--keys") as url, playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield World(url, built, chromium, axe_source())
        chromium.close()


@pytest.fixture
def visit(world: World) -> Iterator[Callable[..., Any]]:
    """Open a page signed in with a key; at the end nothing may have been noted of any."""
    noted: list[tuple[Any, Faults]] = []

    def open_page(key: str | None, **options: Any) -> Any:
        noted.append(world.open(key, **options))
        return noted[-1][0]

    yield open_page
    for page, faults in noted:
        page.context.close()
        assert faults.found == []


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "photo.png"
    Image.new("RGB", (32, 32), "teal").save(path)
    return path


@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_is_accessible_and_keeps_to_its_width(world, visit, screen):
    page = visit("operator", **SCREENS[screen])
    for path in PAGES:
        world.go(page, path)
        assert page.get_by_role("heading", level=1).count() == 1, path
        assert violations(page, world.axe) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    assert violations(page, world.axe) == []


def test_a_wrong_key_is_refused_and_a_revoked_one_ends_the_session(world):
    page, faults = world.open(None)
    world.go(page, "/tasks")
    page.get_by_label("API key").fill("ot_wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "not valid, or was revoked" in page.get_by_role("alert").inner_text()
    assert violations(page, world.axe) == []
    with Store.open(world.built.root) as store:
        key, secret = new_key("acme", ("read",))
        store.put_key(key)
        world.sign_in(page, secret)
        assert page.context.cookies()[0]["httpOnly"]
        assert page.evaluate("[document.cookie, localStorage.length].join()") == ",0"
        assert page.evaluate("Object.entries(sessionStorage)") == [["htmx-current-path-for-history", "/console/"]]
        store.revoke_key(key.id)
    world.go(page, "/tasks")
    assert page.url.endswith("/console/sign-in?next=%2Ftasks&ended=1")
    assert "session has ended" in page.get_by_role("status").inner_text()
    assert all("401" in fault for fault in faults.found)
    page.context.close()


def test_promote_refused_promote_and_rollback(world, visit):
    page = visit("promoter")
    world.go(page, "/tasks/acme/cars")
    page.get_by_label("Point alias").fill("prod")
    page.get_by_label("at version").select_option("3")
    page.get_by_role("button", name="Promote…").click()
    assert page.get_by_role("heading", name="This would be refused").is_visible()
    assert page.get_by_text("The cut may cost 1 points; its cost is 3.20").is_visible()
    assert page.get_by_role("button", name="Move the alias").count() == 0
    page.get_by_role("link", name="Back", exact=True).click()
    page.get_by_label("Point alias").fill("prod")
    page.get_by_label("at version").select_option("1")
    page.get_by_role("button", name="Promote…").click()
    page.get_by_role("button", name="Move the alias").click()
    assert "The alias was moved." in page.get_by_role("status").inner_text()
    with Store.open(world.built.root) as store:
        assert store.aliases("acme/cars")["prod"] == 1
    page.get_by_role("row", name=re.compile("^prod")).get_by_role("link", name="Roll back").click()
    page.get_by_role("button", name="Roll back").click()
    assert "The alias was rolled back." in page.get_by_role("status").inner_text()
    with Store.open(world.built.root) as store:
        assert store.aliases("acme/cars")["prod"] == 2


def test_a_reader_is_offered_no_change(world, visit):
    page = visit("reader")
    world.go(page, "/tasks/acme/cars")
    for name in ("Promote…", "Tag…"):
        assert page.get_by_role("button", name=name).count() == 0
    for name in ("Remove", "Roll back", "Restore"):
        assert page.get_by_role("link", name=name, exact=True).count() == 0


def check_answers(page: Any) -> None:
    page.get_by_role("button", name="Ask").click()
    page.locator(".answer").first.wait_for()
    page.locator("#sharing-facts").wait_for()
    cards = page.locator(".answer").all_inner_texts()
    assert len(cards) == 2
    assert all(re.search(r"Depth \d+ · \d+ ms · \d+ blocks shared", card) for card in cards), cards
    assert "13 blocks ran" in page.locator("#sharing-facts").inner_text()


def test_an_image_is_dropped_pasted_chosen_or_taken_and_answered(world, visit, picture):
    page = visit("reader", permissions=["clipboard-read", "clipboard-write"])
    world.go(page, "/try")
    page.get_by_label("acme/plain").uncheck()
    encoded = base64.b64encode(picture.read_bytes()).decode()
    give = """([encoded, kind]) => {
        const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "photo.png", {type: "image/png"}));
        const init = {bubbles: true, cancelable: true};
        const event = kind === "drop" ? new DragEvent("drop", {...init, dataTransfer: data})
                                      : new ClipboardEvent("paste", {...init, clipboardData: data});
        document.getElementById("drop").dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, [encoded, kind])
        check_answers(page)
    page.set_input_files("#file", picture)
    check_answers(page)
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.locator("#camera").wait_for(state="hidden")
    check_answers(page)
    assert violations(page, world.axe) == []
    page.get_by_role("button", name="Copy").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl --data-binary @image.jpg")
    assert "Authorization: Bearer $ONETRUNK_API_KEY" in copied
    assert f"{world.url}/v1/predict?top=3&ref=acme%2Fbirds&ref=acme%2Fcars" in copied


def test_what_is_no_image_is_refused_in_words(world, visit, tmp_path):
    page = visit("reader")
    world.go(page, "/try")
    (tmp_path / "notes.txt").write_text("text")
    page.set_input_files("#file", tmp_path / "notes.txt")
    assert "not an image" in page.locator("#status").inner_text()


def test_tenant_against_tenant(world):
    page, faults = world.open("rival", **SCREENS["phone"])
    for path in ("/", "/tasks", "/storage", "/servers", "/try"):
        world.go(page, path)
        assert "acme" not in page.content()
    world.go(page, "/tasks")
    assert page.locator("tbody tr").count() == 1
    for path in ("/tasks/acme/cars", "/compare?task=acme/cars", "/change/promote?task=acme/cars&alias=prod&version=1"):
        world.go(page, path)
        assert page.get_by_role("heading", level=1).inner_text() == "Not found"
        assert violations(page, world.axe) == []
    assert all("404" in fault for fault in faults.found)
    page.context.close()


def test_a_search_answers_while_one_types(world, visit):
    page = visit("operator")
    world.go(page, "/tasks")
    page.evaluate("window.sameDocument = true")
    page.get_by_label("Name").press_sequentially("bird")
    page.get_by_text("1 task matches").wait_for()
    assert page.locator("tbody tr").count() == 1
    assert page.evaluate("window.sameDocument") is True
    assert "q=bird" in page.url
    assert page.get_by_role("status").inner_text().startswith("1 task matches")


def test_times_are_in_the_readers_zone(world, visit):
    page = visit("reader")
    world.go(page, "/tasks/acme/cars")
    shown = page.locator("time").first
    assert shown.get_attribute("title").endswith("UTC")
    at = datetime.fromisoformat(shown.get_attribute("datetime")) + timedelta(hours=9)
    assert at.strftime("%H:%M") in shown.inner_text()


def test_everything_is_reached_by_keyboard(world, visit):
    page = visit(None)
    world.go(page, "/sign-in")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type(world.built.secrets["promoter"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    world.go(page, "/tasks/acme/cars")
    controls = page.locator(CONTROLS).count()
    seen = set()
    for _ in range(controls + 5):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(PLACE))
    assert len(seen - {-1}) == controls


def test_without_scripts_pages_and_changes_work(world, visit):
    page = visit("promoter", java_script_enabled=False)
    world.go(page, "/tasks")
    page.get_by_label("Name").fill("cars")
    page.get_by_role("button", name="Search").click()
    assert page.locator("tbody tr").count() == 1
    world.go(page, "/change/tag?task=acme/cars&key=seen&value=yes")
    page.get_by_role("button", name="Set the tag").click()
    assert "The tags were changed." in page.get_by_role("status").inner_text()


def test_a_picture_in_the_page_is_that_of_the_file(visit, world, picture):
    page = visit("reader")
    world.go(page, "/try")
    page.set_input_files("#file", picture)
    page.locator("#preview").wait_for()
    assert page.evaluate("document.getElementById('preview').decode().then(() => preview.naturalWidth)") == 32
