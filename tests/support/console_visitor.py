"""Someone at the console, without a browser: signs in, opens pages, sends their forms."""

from __future__ import annotations

import re
from html import unescape

from httpx import Response
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from serving.console.app import make_console
from serving.console.state import ConsoleState
from serving.console.storage_source import StorageSource
from serving.http.browser_sessions import BrowserSessions
from store.records.events import ApiKey
from store.registry.api_keys import authenticate
from store.registry.store import Store

FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
TAGS = re.compile(r"<[^>]*>")


def make_application(store: Store, *, keys: bool = True, secret: str | None = None) -> Starlette:
    """Return the console over the store, without predictions and statistics; replicas have the same secret."""

    async def find_key(secret: str, _client: str) -> ApiKey:
        return authenticate(store, secret)

    sessions = BrowserSessions(secret) if keys else None
    state = ConsoleState(store, sessions, find_key if keys else None, storage=StorageSource(store))
    return Starlette(routes=[Mount("/console", make_console(state))])


class Visitor:
    """One browser's cookies."""

    def __init__(self, application: Starlette, secret: str | None = None) -> None:
        self.client = TestClient(application, base_url="http://console.test", follow_redirects=False)
        if secret is not None:
            assert self.post("/sign-in", key=secret).status_code == 303

    def get(self, path: str) -> Response:
        return self.client.get(f"/console{path}")

    def page(self, path: str) -> str:
        response = self.get(path)
        assert response.status_code == 200, (path, response.status_code, text_of(response.text))
        return response.text

    def post(self, path: str, /, **fields: str) -> Response:
        return self.client.post(f"/console{path}", data=fields, headers={"sec-fetch-site": "same-origin"})

    def token(self) -> str:
        """Return what the pages of this session send with each change."""
        return hidden_fields(self.page("/tasks"))["token"]

    def confirm(self, path: str) -> Response:
        """Open the preview of a change and send its form."""
        page = self.page(path).partition('<div class="confirm">')[2]
        assert 'method="post"' in page, text_of(page)
        return self.post(path.partition("?")[0], **hidden_fields(page))


def hidden_fields(page: str) -> dict[str, str]:
    return {name: unescape(value) for name, value in FIELD.findall(page)}


def text_of(page: str) -> str:
    """Return what a page says, its markup left out."""
    return " ".join(unescape(TAGS.sub(" ", page.partition("<main")[2] or page)).split())
