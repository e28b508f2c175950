"""Sessions of browsers: a signed cookie that names an API key, so that the key's secret is sent only once.

Every replica of an application signs with the same secret, so a session made by one is valid at all of them, and
there is nothing to keep. Who the cookie names is looked up at each request, and whether the session was ended: a
revoked key ends its sessions, and what one replica ends is over at all, since all have the catalogue in common.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import cookie_parser

from store.records.events import ApiKey
from store.registry.store import Store

COOKIE = "onetrunk_session"
TOKEN_HEADER = "x-onetrunk-token"
LIFE_S = 8 * 3600
MOST_CHARACTERS = 200  # of a cookie that is looked at


@dataclass(frozen=True)
class BrowserSession:
    """Who is signed in until when; `token` is what a page of this session sends with each change."""

    key_id: str
    expires_at: int
    nonce: str
    token: str


class BrowserSessions:
    """Signs sessions and reads them back."""

    def __init__(self, secret: str | None = None) -> None:
        self._secret = (secret or secrets.token_hex(32)).encode()

    def start(self, key_id: str) -> str:
        """Return the cookie's value for a new session of this key."""
        payload = f"{key_id}.{int(time.time()) + LIFE_S}.{secrets.token_hex(16)}"
        return f"{payload}.{self._sign('session', payload)}"

    def read(self, value: str) -> BrowserSession | None:
        """Return the session of a cookie, None where it was not made here or has expired."""
        payload, _, signature = value[:MOST_CHARACTERS].rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", payload).encode()):
            return None
        key_id, expires_at, nonce = payload.split(".")
        if int(expires_at) <= time.time():
            return None
        return BrowserSession(key_id, int(expires_at), nonce, self._sign("token", payload))

    def of(self, headers: Mapping[bytes, bytes]) -> BrowserSession | None:
        """Return the session of a request by its cookie alone: enough to read a page, not to change anything."""
        cookie = headers.get(b"cookie")
        return None if cookie is None else self.read(cookie_parser(cookie.decode("latin-1")).get(COOKIE, ""))

    def of_script(self, headers: Mapping[bytes, bytes]) -> BrowserSession | None:
        """Return the session of a request that also has the token, which a page of another site cannot know."""
        session = self.of(headers)
        given = headers.get(TOKEN_HEADER.encode(), b"")
        return session if session is not None and hmac.compare_digest(given, session.token.encode()) else None

    def _sign(self, purpose: str, payload: str) -> str:
        return hmac.digest(self._secret, f"{purpose}\0{payload}".encode(errors="replace"), "sha256").hex()


def key_of(session: BrowserSession, store: Store) -> ApiKey | None:
    """Look up whose session it is; None where it was ended at any replica, or its key was revoked."""
    if store.session_has_ended(session.nonce):
        return None
    key = store.api_key(session.key_id)
    return None if key is None or key.revoked_at is not None else key


def end_session(session: BrowserSession, store: Store) -> None:
    """Let the session be over at every replica; raise where the catalogue cannot be written."""
    store.check_writable()
    store.catalogue.end_session(session.nonce, expires_at=session.expires_at)
