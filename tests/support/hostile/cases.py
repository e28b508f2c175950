"""What one attack sends and what may come back; the tables of attacks are made of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

KEY = b"@KEY@"
"""Stands for the attacker's own secret, which is valid; it is put in when the bytes are sent."""
PREDICT = "/v1/predict/mallory/cars"
CUT_OFF_S = 30.0  # a client that stands still is cut off within this
ANSWER_S = 10.0  # a whole request is answered within this, whatever it is


class End(Enum):
    """How the attacker ends its side of the connection."""

    FIN = "fin"
    RESET = "reset"


Step = bytes | float | End
"""Bytes to send, seconds to wait, or the end of sending."""
Steps = Callable[[], Iterable[Step]]


@dataclass(frozen=True)
class Expect:
    """What may come back: which statuses, whether no answer is one too, whether an error must be our JSON."""

    statuses: frozenset[int]
    silence: bool = False
    json: bool = False
    within_s: float = ANSWER_S
    is_cut_off: bool = False


@dataclass(frozen=True)
class Case:
    """One attack, made by so many clients at once; each sends the steps and waits for the end."""

    name: str
    steps: Steps
    expect: Expect
    copies: int = 1


CLIENT_ERRORS = frozenset(range(400, 499))
BUSY = frozenset({503})  # a server that sheds load; it has to say when to come back
REFUSED = Expect(CLIENT_ERRORS | BUSY, json=True)
"""One of our errors."""
REJECTED = Expect(CLIENT_ERRORS, silence=True)
"""An error of whatever parses HTTP, or the end of the connection; to wait for more is neither."""
HARMLESS = Expect(frozenset(range(200, 300)) | CLIENT_ERRORS | BUSY, silence=True)
"""Anything but a fault of the server."""
ANSWERED = Expect(frozenset({200}))
ANSWERED_OR_REFUSED = Expect(frozenset({200}) | CLIENT_ERRORS | BUSY, json=True)
CUT_OFF = Expect(CLIENT_ERRORS | BUSY, silence=True, within_s=CUT_OFF_S, is_cut_off=True)
"""The server ends the connection by itself, with or without an error."""


def head(*lines: str | bytes) -> bytes:
    """Return the lines as they are, with the empty line that ends a head."""
    return b"\r\n".join(line if isinstance(line, bytes) else line.encode("latin-1") for line in (*lines, "", ""))


def authorized(*lines: str | bytes) -> bytes:
    """Return a head whose first line is the request line, with a host and the attacker's key."""
    return head(lines[0], "Host: server", b"Authorization: Bearer " + KEY, *lines[1:])


def get(target: str, *lines: str | bytes) -> bytes:
    return authorized(f"GET {target} HTTP/1.1", *lines)


def post(target: str, body: bytes, *lines: str | bytes, method: str = "POST") -> bytes:
    return authorized(f"{method} {target} HTTP/1.1", f"Content-Length: {len(body)}", *lines) + body


def once(data: bytes) -> Steps:
    return lambda: [data]


def drip(data: bytes, *, every_s: float) -> Iterable[Step]:
    """Yield one byte at a time."""
    for value in data:
        yield bytes([value])
        yield every_s


def named(family: str, table: dict[str, tuple[Steps, Expect]]) -> list[Case]:
    return [Case(f"{family}: {name}", steps, expect) for name, (steps, expect) in table.items()]
