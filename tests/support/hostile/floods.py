"""Attacks by many clients at once: connections that stand still, churn, wrong keys, uploads, too much work."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from support.hostile.cases import (
    ANSWERED,
    ANSWERED_OR_REFUSED,
    CUT_OFF,
    HARMLESS,
    PREDICT,
    REFUSED,
    Case,
    End,
    Expect,
    Step,
    authorized,
    get,
    head,
    post,
)
from support.hostile.lengths import LINE, MEBIBYTE
from support.hostile.pictures import flat, many_scans, saved

HOLD_S = 3.0
MEBIBYTES = 31  # below the limit of an image
PATIENT_S = 30.0  # a flood is worked off, or shed, within this
UNAUTHORIZED = Expect(frozenset({401, 429, 503}), json=True, within_s=PATIENT_S)
SHED = Expect(ANSWERED_OR_REFUSED.statuses, json=True, within_s=PATIENT_S)
DROPPED = Expect(HARMLESS.statuses, silence=True, within_s=PATIENT_S)


def with_wrong_keys(count: int, *, body: bytes = b"") -> Iterable[Step]:
    for _ in range(count):
        key = f"ot_{secrets.token_hex(20)}"
        yield (
            head(f"POST {PREDICT} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", f"Content-Length: {len(body)}")
            + body
        )


def upload() -> Iterable[Step]:
    yield authorized(LINE, f"Content-Length: {MEBIBYTES << 20}")
    yield from [MEBIBYTE] * MEBIBYTES


def images() -> Iterable[Step]:
    """Send a photo for a prediction eight times on one connection."""
    return [post(PREDICT, saved("JPEG"))] * 8


FLOODS = [
    Case("flood: 300 connections that say nothing", lambda: [HOLD_S, End.FIN], DROPPED, copies=300),
    Case("flood: 300 half heads", lambda: [get("/healthz")[:30], HOLD_S, End.FIN], DROPPED, copies=300),
    Case("flood: 300 bodies that never come", lambda: [authorized(LINE, "Content-Length: 1000")], CUT_OFF, copies=300),
    Case("flood: 300 half bodies", lambda: [authorized(LINE, "Content-Length: 1000") + b"x", HOLD_S, End.RESET],
         DROPPED, copies=300),
    Case("flood: 1,000 connections that end at once", lambda: [End.FIN], DROPPED, copies=1_000),
    Case("flood: 1,000 connections that are reset", lambda: [b"G", End.RESET], DROPPED, copies=1_000),
    Case("flood: 300 clients that leave before the answer", lambda: [post(PREDICT, saved("JPEG")), End.RESET],
         DROPPED, copies=300),
    Case("flood: 2,000 wrong keys", lambda: with_wrong_keys(40), UNAUTHORIZED, copies=50),
    Case("flood: 50 wrong keys with 1 MB each", lambda: with_wrong_keys(1, body=MEBIBYTE), UNAUTHORIZED, copies=50),
    Case("flood: 40 uploads of 31 MB", upload, Expect(REFUSED.statuses, silence=True, within_s=PATIENT_S), copies=40),
    Case("flood: 512 photos of one key", images, SHED, copies=64),
    Case("flood: 16 photos of 25 Mpx", lambda: [post(PREDICT, flat("L", 5_000, 5_000)())], SHED, copies=16),
    Case("flood: 16 strips", lambda: [post(PREDICT, flat("RGB", 10_000, 1)())], SHED, copies=16),
    Case("flood: 16 files of 1,500 scans", lambda: [post(PREDICT, many_scans(1_500, 7_000))], SHED, copies=16),
    Case("flood: 500 tasks that are none", lambda: [get(f"/v1/tasks/mallory/{secrets.token_hex(8)}")] * 10, SHED,
         copies=50),
    Case("flood: 64 searches", lambda: [get("/v1/tasks?text=" + "%25" * 1_000)], SHED, copies=64),
    Case("flood: 10,000 questions for health", lambda: [get("/healthz") * 200], ANSWERED, copies=50),
]  # fmt: skip
