"""Attacks on where a body ends: wrong lengths, broken chunks, requests smuggled in a body, bodies that never come."""

from __future__ import annotations

import gzip
from collections.abc import Iterable

from support.hostile.cases import (
    ANSWERED_OR_REFUSED,
    CUT_OFF,
    HARMLESS,
    PREDICT,
    REFUSED,
    REJECTED,
    End,
    Expect,
    Step,
    Steps,
    authorized,
    drip,
    get,
    named,
    once,
)

LINE = f"POST {PREDICT} HTTP/1.1"
BUNDLE_LINE = "POST /v1/bundles/mallory/new HTTP/1.1"
CHUNKED = "Transfer-Encoding: chunked"
HIDDEN = get("/v1/keys?smuggled=1")
MEBIBYTE = bytes(1 << 20)


def body(*lines: str, data: bytes = b"x" * 10) -> Steps:
    return once(authorized(LINE, *lines) + data)


def length(value: str, *lines: str, data: bytes = b"x" * 10) -> Steps:
    return body(f"Content-Length: {value}", *lines, data=data)


def chunks(data: bytes, *lines: str, coding: str = CHUNKED) -> Steps:
    return once(authorized(LINE, coding, *lines) + data)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def smuggled(*lines: str) -> Steps:
    """Hide a request behind the last chunk, for a reader that goes by the length."""
    data = b"0\r\n\r\n" + HIDDEN
    return once(authorized(LINE, f"Content-Length: {len(data)}", *lines) + data)


def smuggled_in_a_chunk(*lines: str) -> Steps:
    """Hide a request in a chunk, for a reader that goes by a short length."""
    return once(authorized(LINE, "Content-Length: 4", *lines) + chunk(HIDDEN) + b"0\r\n\r\n")


def upload(line: str, *lines: str, mebibytes: int) -> Iterable[Step]:
    yield authorized(line, *lines)
    yield from [MEBIBYTE] * mebibytes


def chunked_upload(mebibytes: int) -> Iterable[Step]:
    yield authorized(LINE, CHUNKED)
    yield from [chunk(MEBIBYTE)] * mebibytes
    yield b"0\r\n\r\n"


LENGTHS: dict[str, tuple[Steps, Expect]] = {
    "negative": (length("-1"), REJECTED),
    "with a plus": (length("+10"), REJECTED),
    "hexadecimal": (length("0xa"), REJECTED),
    "a float": (length("1e1"), REJECTED),
    "with an underscore": (length("1_0"), REJECTED),
    "with a space": (length("1 0"), REJECTED),
    "a list of two": (length("10, 10"), REJECTED),
    "empty": (length(""), HARMLESS),
    "NaN": (length("NaN"), REJECTED),
    "in other digits": (once(authorized(LINE, "Content-Length: \u0661\u0660".encode()) + b"x" * 10), REJECTED),
    "twice the same": (length("10", "Content-Length: 10"), HARMLESS),
    "twice, different": (length("10", "Content-Length: 3"), REJECTED),
    "2 ** 63": (length(str(1 << 63)), REJECTED),
    "2 ** 64 + 10": (length(str((1 << 64) + 10)), REJECTED),
    "of 4,000 digits": (length("9" * 4000), REJECTED),
    "1 TB of an image, 10 bytes sent": (length(str(1 << 40)), REFUSED),
    "1 TB of a bundle, 10 bytes sent": (once(authorized(BUNDLE_LINE, f"Content-Length: {1 << 40}") + b"x" * 10),
                                        REFUSED),
    # Who goes on sending after the answer may lose it: the connection is closed, and reset.
    "33 MB, all sent": (lambda: upload(LINE, f"Content-Length: {33 << 20}", mebibytes=33), REJECTED),
    "too short, the rest is garbage": (length("3"), HARMLESS),
    "too long, then the end": (lambda: [authorized(LINE, "Content-Length: 100") + b"x", End.FIN], REJECTED),
    "too long, then a reset": (lambda: [authorized(LINE, "Content-Length: 100") + b"x", 0.1, End.RESET], HARMLESS),
    "none, with a body": (body(data=b"x\r\n\r\n"), HARMLESS),
    "on a GET": (once(get("/healthz", "Content-Length: 3") + b"abc"), HARMLESS),
    "a gzip bomb": (lambda: [authorized(LINE, "Content-Encoding: gzip", f"Content-Length: {len(gzipped())}")
                             + gzipped()], REFUSED),
}  # fmt: skip


def gzipped() -> bytes:
    return gzip.compress(bytes(8 << 20))


CHUNKS: dict[str, tuple[Steps, Expect]] = {
    "a size that is a word": (chunks(b"xyz\r\nabc\r\n0\r\n\r\n"), REJECTED),
    "a negative size": (chunks(b"-1\r\nabc\r\n0\r\n\r\n"), REJECTED),
    "a size with 0x": (chunks(b"0x3\r\nabc\r\n0\r\n\r\n"), REJECTED),
    "a size with an underscore": (chunks(b"0_3\r\nabc\r\n0\r\n\r\n"), REJECTED),
    "a size above 64 bits": (chunks(b"FFFFFFFFFFFFFFFF1\r\nabc\r\n0\r\n\r\n"), REJECTED),
    "a size of 1 MB of zeros": (chunks(b"0" * (1 << 20) + b"3\r\nabc\r\n0\r\n\r\n"), HARMLESS),
    "a size without a line end": (chunks(b"3xyz0\r\n\r\n"), REJECTED),
    "a size before a line feed": (chunks(b"3\nabc\n0\n\n"), HARMLESS),
    "a size in spaces": (chunks(b" 3 \r\nabc\r\n0\r\n\r\n"), HARMLESS),
    "more than its size": (chunks(b"3\r\nabcdef\r\n0\r\n\r\n"), REJECTED),
    "an extension": (chunks(b"3;a=b\r\nabc\r\n0\r\n\r\n"), HARMLESS),
    "an extension of 1 MB": (chunks(b"3;" + b"a" * (1 << 20) + b"\r\nabc\r\n0\r\n\r\n"), HARMLESS),
    "extensions on 10,000 chunks": (chunks(b"1;a=bcdefgh\r\nx\r\n" * 10_000 + b"0\r\n\r\n"), HARMLESS),
    "an extension with a line feed": (chunks(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), HARMLESS),
    "64 kB a byte each": (chunks(b"1\r\nx\r\n" * 65_536 + b"0\r\n\r\n"), REFUSED),
    "no last chunk": (lambda: [authorized(LINE, CHUNKED) + chunk(b"abc"), End.FIN], REJECTED),
    "a trailer": (chunks(chunk(b"abc") + b"0\r\nX-A: 1\r\n\r\n"), HARMLESS),
    "a trailer that is a length": (chunks(chunk(b"abc") + b"0\r\nContent-Length: 5\r\n\r\n"), HARMLESS),
    "a trailer that is a key": (chunks(chunk(b"abc") + b"0\r\nAuthorization: Bearer ot_x\r\n\r\n"), HARMLESS),
    "a trailer of 1 MB": (chunks(chunk(b"abc") + b"0\r\nX-A: " + b"a" * (1 << 20) + b"\r\n\r\n"), HARMLESS),
    "10,000 trailers": (chunks(chunk(b"abc") + b"0\r\n" + b"X-A: 1\r\n" * 10_000 + b"\r\n"), HARMLESS),
    "33 MB": (lambda: chunked_upload(33), REJECTED),
    "in HTTP/1.0": (once(authorized(LINE.replace("1.1", "1.0"), CHUNKED) + chunk(b"abc") + b"0\r\n\r\n"), HARMLESS),
    "gzip": (chunks(b"x", coding="Transfer-Encoding: gzip"), Expect(REJECTED.statuses | {501}, silence=True)),
    "identity": (chunks(b"x", coding="Transfer-Encoding: identity"), Expect(REJECTED.statuses | {501}, silence=True)),
    "chunked twice": (chunks(chunk(b"abc") + b"0\r\n\r\n", coding="Transfer-Encoding: chunked, chunked"), HARMLESS),
}

SMUGGLING: dict[str, tuple[Steps, Expect]] = {
    "CL.TE": (smuggled(CHUNKED), REJECTED),
    "CL.TE, two lengths": (smuggled("Content-Length: 5", CHUNKED), REJECTED),
    "CL.0": (once(get("/healthz", f"Content-Length: {len(HIDDEN)}") + HIDDEN), HARMLESS),
    "TE.CL": (smuggled_in_a_chunk(CHUNKED), REJECTED),
    "TE.TE, the second unknown": (smuggled(CHUNKED, "Transfer-encoding: cow"), REJECTED),
    "TE.TE, a space before the colon": (smuggled("Transfer-Encoding : chunked"), REJECTED),
    "TE.TE, a tab": (smuggled("Transfer-Encoding:\tchunked"), REJECTED),
    "TE.TE, a vertical tab": (smuggled("Transfer-Encoding: \x0bchunked"), REJECTED),
    "TE.TE, another word": (smuggled("Transfer-Encoding: xchunked"), REJECTED),
    "TE.TE, quoted": (smuggled('Transfer-Encoding: "chunked"'), REJECTED),
    "TE.TE, folded": (smuggled("Transfer-Encoding:", " chunked"), REJECTED),
    "TE.TE, in a list": (smuggled("Transfer-Encoding: identity, chunked"), REJECTED),
    "TE.TE, chunked first": (smuggled("Transfer-Encoding: chunked, identity"), REJECTED),
    "TE.TE, capitals": (smuggled("TRANSFER-ENCODING: ChUnKeD"), REJECTED),
    "TE.TE, an underscore": (smuggled("Transfer_Encoding: chunked"), HARMLESS),
    "a line feed in a value": (smuggled("X-A: b\nTransfer-Encoding: chunked"), HARMLESS),
    "a hop that removes the length": (smuggled("Connection: content-length"), HARMLESS),
    "the end of a line alone": (smuggled("X-A: b\r\rTransfer-Encoding: chunked"), REJECTED),
}

SLOW: dict[str, tuple[Steps, Expect]] = {
    "the body never comes": (lambda: [authorized(LINE, "Content-Length: 1000")], CUT_OFF),
    "half of it comes": (lambda: [authorized(LINE, "Content-Length: 1000") + b"x" * 500], CUT_OFF),
    "a byte a second": (lambda: [authorized(LINE, "Content-Length: 1000"), *drip(b"x" * 60, every_s=1.0)], CUT_OFF),
    "no last chunk": (lambda: [authorized(LINE, CHUNKED) + chunk(b"abc")], CUT_OFF),
    "chunks of a byte a second": (lambda: [authorized(LINE, CHUNKED), *dripped_chunks(60)], CUT_OFF),
    "100-continue, nothing follows": (lambda: [authorized(LINE, "Content-Length: 9", "Expect: 100-continue")], CUT_OFF),
    "a bundle never comes": (lambda: [authorized(BUNDLE_LINE, "Content-Length: 100000")], CUT_OFF),
    "half a bundle comes": (lambda: [authorized(BUNDLE_LINE, "Content-Length: 100000") + bytes(50_000)], CUT_OFF),
    "a body in two parts, in the end whole": (lambda: [authorized(LINE, "Content-Length: 4") + b"ab", 1.0, b"cd"],
                                              ANSWERED_OR_REFUSED),
}  # fmt: skip


def dripped_chunks(count: int) -> Iterable[Step]:
    for _ in range(count):
        yield chunk(b"x")
        yield 1.0


CASES = [
    *named("length", LENGTHS),
    *named("chunks", CHUNKS),
    *named("smuggling", SMUGGLING),
    *named("slow body", SLOW),
]
