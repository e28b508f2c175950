"""Signing in with an API key: its secret is sent once, in a form, and a session's cookie stands for it from then on."""

from __future__ import annotations

import urllib.parse

from serving.console.state import Answer, Moved, Shown, Visit
from serving.http.browser_sessions import end_session
from store.errors import UnknownKeyError

MOST_NEXT = 400
WRONG = "This API key is not valid, or was revoked. Check it, or ask the operator for another."


def show(visit: Visit) -> Answer:
    if visit.state.sessions is None:
        return Moved("/")
    return Shown("sign_in.html", {"next": _next(visit), "ended": visit.text("ended") == "1", "wrong": None})


async def sign_in(visit: Visit, client: str) -> Answer:
    """Start a session for the key in the form; a wrong one gets the form again."""
    sessions, find_key = visit.state.sessions, visit.state.find_key
    if sessions is None or find_key is None:
        return Moved("/")
    try:
        key = await find_key(visit.text("key") or "", client)
    except UnknownKeyError:
        return Shown("sign_in.html", {"next": _next(visit), "ended": False, "wrong": WRONG}, 401)
    return Moved(_next(visit), cookie=sessions.start(key.id))


def sign_out(visit: Visit) -> Answer:
    if visit.session is not None:
        end_session(visit.session, visit.state.store)
    return Moved("/sign-in", cookie="")


def ask(path: str, *, ended: bool) -> Moved:
    """Send a visitor who has no session to the form, and from there back to the page."""
    fields = {} if path == "/" else {"next": path[:MOST_NEXT]}
    query = urllib.parse.urlencode({**fields, **({"ended": "1"} if ended else {})})
    return Moved("/sign-in" + (f"?{query}" if query else ""))


def _next(visit: Visit) -> str:
    """Return the page to go to: one of the console's own, whatever the link says."""
    path = visit.text("next") or "/"
    plain = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return urllib.parse.quote(path, safe="/") if plain and len(path) <= MOST_NEXT else "/"
