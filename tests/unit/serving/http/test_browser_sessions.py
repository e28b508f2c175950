from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from serving.http import browser_sessions
from serving.http.browser_sessions import COOKIE, LIFE_S, TOKEN_HEADER, BrowserSessions

KEY = "0123456789abcdef"


def cookie(value: str) -> dict[bytes, bytes]:
    return {b"cookie": f"other=1; {COOKIE}={value}".encode("latin-1")}


def test_replicas_with_the_same_secret_accept_each_others_sessions_and_no_others():
    one, other, stranger = BrowserSessions("s"), BrowserSessions("s"), BrowserSessions()
    value = one.start(KEY)
    session = other.of(cookie(value))
    assert session is not None
    assert session.key_id == KEY
    assert stranger.of(cookie(value)) is None


@given(st.integers(0, 150), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_session_with_any_character_changed_is_not_valid(place, character):
    sessions = BrowserSessions("s")
    value = sessions.start(KEY)
    place %= len(value)
    changed = value[:place] + character + value[place + 1 :]
    assert (sessions.read(changed) is not None) == (changed == value)


@given(st.text(max_size=400))
def test_any_text_is_read_without_an_error(text):
    assert BrowserSessions("s").read(text) is None


def test_a_session_expires(monkeypatch):
    sessions = BrowserSessions("s")
    value = sessions.start(KEY)
    now = time.time()
    monkeypatch.setattr(browser_sessions.time, "time", lambda: now + LIFE_S + 1)
    assert sessions.read(value) is None


def test_a_script_needs_the_token_beside_the_cookie():
    sessions = BrowserSessions("s")
    value = sessions.start(KEY)
    session = sessions.read(value)
    assert session is not None
    header = TOKEN_HEADER.encode()
    assert sessions.of_script({**cookie(value), header: session.token.encode()}) == session
    assert sessions.of_script(cookie(value)) is None
    assert sessions.of_script({**cookie(value), header: b"0" * 64}) is None
    assert sessions.of_script({header: session.token.encode()}) is None
    assert session.token not in value
