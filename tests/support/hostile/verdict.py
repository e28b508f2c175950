"""What is wrong with the answers to an attack, in words; an empty list where nothing is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from support.hostile.attack import Exchange, Reply
from support.hostile.cases import Case, Expect

MOST_SHOWN = 5
LEAKS = re.compile(rb"Traceback|site-packages|\.py\b|/(?:proc|home|root|tmp|usr)/|File \"")
MOST_LETTERS = 3_000


def faults(case: Case, exchanges: Sequence[Exchange], *, root: str) -> list[str]:
    """Judge every exchange of a case; `root` is the folder of the store, which no answer shows."""
    found = [fault for exchange in exchanges for fault in _faults(case.expect, exchange, root.encode())]
    return found[:MOST_SHOWN]


def _faults(expect: Expect, exchange: Exchange, root: bytes) -> list[str]:
    found = [fault for reply in exchange.replies for fault in faults_of(expect, reply, root)]
    if not exchange.replies and not (expect.silence and exchange.is_closed):
        found.append(f"no answer within {exchange.seconds:.1f} s, closed: {exchange.is_closed}")
    elif exchange.seconds > expect.within_s:
        found.append(f"took {exchange.seconds:.1f} s of {expect.within_s:g} s")
    return found


def faults_of(expect: Expect, reply: Reply, root: bytes) -> list[str]:
    shown = f"{reply.status} {reply.body[:300]!r}"
    found = []
    if reply.status not in expect.statuses:
        found.append(f"status is not expected: {shown}")
    # A deadline is the caller's own: to ask again in a second does not help.
    if reply.status == 503 and "retry-after" not in reply.headers and b'"DeadlineError"' not in reply.body:
        found.append(f"503 without Retry-After: {shown}")
    if reply.status >= 400 and (LEAKS.search(reply.body) or root in reply.body):
        found.append(f"the body shows a path or a traceback: {shown}")
    if reply.status >= 400 and expect.json and not _is_ours(reply.body):
        found.append(f"the error is not our JSON: {shown}")
    return found


def _is_ours(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    if not isinstance(answer, dict) or not (
        answer.keys() >= {"error", "message"} or answer.keys() >= {"error", "kind"}
    ):
        return False
    message = answer.get("message", answer["error"])  # the Open Inference Protocol has the line as `error`
    return isinstance(message, str) and message.isprintable() and 0 < len(message) < MOST_LETTERS
