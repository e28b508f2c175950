"""Which request it is: an id that is safe to print, and the trace that it belongs to."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context; of a version that is not known yet, the fields of this one count."""


@dataclass(frozen=True)
class TraceParent:
    """The trace of the client's call, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool


def clean_id(given: bytes | None) -> str:
    """Return the client's id where it is of letters, digits and ._:- and at most 64 long, else a new one."""
    if given is not None and REQUEST_ID.fullmatch(given) is not None:
        return given.decode("ascii")
    return secrets.token_hex(12)


def parse_traceparent(given: bytes | None) -> TraceParent | None:
    """Return what the header says; None without one, and where it is malformed, as the standard asks."""
    match = TRACEPARENT.fullmatch(given) if given is not None else None
    if match is None or (given is not None and given.startswith(b"00") and match[4] is not None):
        return None
    return TraceParent(match[1].decode(), match[2].decode(), bool(int(match[3], 16) & 1))
