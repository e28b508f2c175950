"""Attacks on what reads the head of a request: malformed lines, too much of everything, other protocols."""

from __future__ import annotations

import os

from support.hostile.cases import (
    ANSWERED,
    ANSWERED_OR_REFUSED,
    CUT_OFF,
    HARMLESS,
    KEY,
    PREDICT,
    REFUSED,
    REJECTED,
    End,
    Expect,
    Steps,
    authorized,
    drip,
    get,
    head,
    named,
    once,
    post,
)

HEALTH = "GET /healthz HTTP/1.1"
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(32) + bytes.fromhex("20") + bytes(32) + bytes(130)
PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1\x1f\x90\0\x50"
HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
UPGRADE_2 = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
DISTURBED = Expect(HARMLESS.statuses | {0}, silence=True)
"""An answer in whatever protocol the request was in, or without its body."""

LINES: dict[str, tuple[Steps, Expect]] = {
    "a NUL in the request line": (once(head(b"GET /heal\0thz HTTP/1.1", "Host: x")), REJECTED),
    "a NUL in a name": (once(head(HEALTH, "Host: x", b"X-\0A: 1")), REJECTED),
    "a NUL in a value": (once(head(HEALTH, "Host: x", b"X-A: 1\0")), REJECTED),
    "only line feeds": (once(b"GET /healthz HTTP/1.1\nHost: x\n\n"), HARMLESS),
    "only carriage returns": (lambda: [b"GET /healthz HTTP/1.1\rHost: x\r\r", End.FIN], REJECTED),
    "a carriage return in a value": (once(head(HEALTH, "Host: x", b"X-A: 1\rX-B: 2")), REJECTED),
    "no colon": (once(head(HEALTH, "Host: x", "Nothing")), REJECTED),
    "a space before the colon": (once(head(HEALTH, "Host : x")), REJECTED),
    "a space before the first name": (once(head(HEALTH, " Host: x")), REJECTED),
    "a folded line": (once(head(HEALTH, "Host: x", "X-A: 1", " 2")), HARMLESS),
    "no name": (once(head(HEALTH, "Host: x", ": 1")), REJECTED),
    "a name in UTF-8": (once(head(HEALTH, "Host: x", "X-é: 1".encode())), REJECTED),
    "a value in Latin-1": (once(head(HEALTH, "Host: x", b"X-A: \xff\xfe")), HARMLESS),
    "a control letter in a value": (once(head(HEALTH, "Host: x", b"X-A: \x01\x1b[2J")), HARMLESS),
    "no host": (once(head(HEALTH)), HARMLESS),
    "two hosts": (once(head(HEALTH, "Host: x", "Host: y")), HARMLESS),
    "a host that is a path": (once(head(HEALTH, "Host: ../../etc")), HARMLESS),
    "an empty first line": (once(b"\r\n\r\n" + head(HEALTH, "Host: x")), HARMLESS),
    "10,000 empty lines": (lambda: [b"\r\n" * 10_000, End.FIN], HARMLESS),
    "two spaces": (once(head("GET  /healthz  HTTP/1.1", "Host: x")), HARMLESS),
    # RFC 9112, section 3, allows a server to take it for a space.
    "a tab": (once(head("GET\t/healthz\tHTTP/1.1", "Host: x")), HARMLESS),
    "no version": (lambda: [head("GET /healthz", "Host: x"), End.FIN], DISTURBED),
    "HTTP/0.9": (lambda: [b"GET /healthz\r\n", End.FIN], DISTURBED),
    "HTTP/1.10": (once(head("GET /healthz HTTP/1.10", "Host: x")), REJECTED),
    "HTTP/2.0 in text": (once(head("GET /healthz HTTP/2.0", "Host: x")), HARMLESS),
    "HTTP/9.9": (once(head("GET /healthz HTTP/9.9", "Host: x")), REJECTED),
    "HTTP/-1": (once(head("GET /healthz HTTP/-1", "Host: x")), REJECTED),
    "HTTQ": (once(head("GET /healthz HTTQ/1.1", "Host: x")), REJECTED),
    "HTTP/1.0": (once(head("GET /healthz HTTP/1.0")), ANSWERED),
    "HTTP/1.0, kept": (once(head("GET /healthz HTTP/1.0", "Connection: keep-alive") * 2), ANSWERED),
    "a method in small letters": (once(head("get /healthz HTTP/1.1", "Host: x")), REJECTED),
    "a method of no letters": (once(head("G@{} /healthz HTTP/1.1", "Host: x")), REJECTED),
    "a method that nobody knows": (once(authorized("BREW /healthz HTTP/1.1")), REJECTED),
    "a method of 1 MB": (once(b"G" * (1 << 20) + head(" /healthz HTTP/1.1")), REJECTED),
    "PATCH": (once(authorized(f"PATCH {PREDICT} HTTP/1.1", "Content-Length: 0")), REFUSED),
    "TRACE": (once(authorized("TRACE /healthz HTTP/1.1")), REJECTED),
    "PROPFIND": (once(authorized("PROPFIND /v1/tasks HTTP/1.1", "Depth: infinity")), REJECTED),
    "CONNECT": (once(head("CONNECT evil.example:443 HTTP/1.1", "Host: evil.example")), REJECTED),
    "an override of the method": (once(get("/v1/tasks/acme/cars", "X-HTTP-Method-Override: DELETE")), REFUSED),
    # Its answer has a length and no body, so that only the end of the connection ends it for the test's reader.
    "HEAD": (once(authorized("HEAD /healthz HTTP/1.1", "Connection: close")), DISTURBED),
    "OPTIONS *": (once(authorized("OPTIONS * HTTP/1.1")), HARMLESS),
    "the absolute form": (once(authorized("GET http://evil.example/healthz HTTP/1.1")), HARMLESS),
    "the absolute form of a file": (once(authorized("GET file:///etc/passwd HTTP/1.1")), REJECTED),
    "the authority form": (once(authorized("GET evil.example:80 HTTP/1.1")), REJECTED),
    "a target without a slash": (once(authorized("GET healthz HTTP/1.1")), REJECTED),
    "a target that is empty": (once(authorized("GET  HTTP/1.1")), REJECTED),
    "a fragment": (once(authorized("GET /healthz#x HTTP/1.1")), HARMLESS),
    "eight bits in the target": (once(authorized(b"GET /healthz/\xff\xfe HTTP/1.1")), REJECTED),
}

SIZES: dict[str, tuple[Steps, Expect]] = {
    "a path of 64 kB": (once(get("/v1/tasks/" + "a" * 65_536)), REJECTED),
    "a path of 5 MB": (once(get("/" + "a" * (5 << 20))), REJECTED),
    "a query of 64 kB": (once(get("/v1/tasks?text=" + "a" * 65_536)), REJECTED),
    "a query of 20,000 names": (once(get("/v1/tasks?" + "&".join(f"a{i}=" for i in range(20_000)))), REJECTED),
    "1,000 headers": (once(get("/healthz", *(f"X-{i}: 1" for i in range(1_000)))), HARMLESS),
    "10,000 headers": (once(get("/healthz", *(f"X-{i}: 1" for i in range(10_000)))), REJECTED),
    "10,000 cookies": (once(get("/healthz", *("Cookie: a=b",) * 10_000)), REJECTED),
    "a header of 1 MB": (once(get("/healthz", "X-A: " + "a" * (1 << 20))), REJECTED),
    "a name of 1 MB": (once(get("/healthz", "a" * (1 << 20) + ": 1")), REJECTED),
    "5 MB of headers": (once(get("/healthz", *(f"X-{i}: {'a' * 1000}" for i in range(5_000)))), REJECTED),
    "a key of 1 MB": (once(head(HEALTH.replace("healthz", "v1/tasks"), "Host: x",
                                "Authorization: Bearer " + "ot_" * (1 << 18))), REJECTED),
    "a range of a million parts": (once(get("/healthz", "Range: bytes=" + "0-," * 10_000)), HARMLESS),
}  # fmt: skip

PROTOCOLS: dict[str, tuple[Steps, Expect]] = {
    "TLS": (once(TLS_HELLO), REJECTED),
    "HTTP/2 with prior knowledge": (once(HTTP_2), DISTURBED),
    "HTTP/2 by upgrade": (once(get("/healthz", *UPGRADE_2)), HARMLESS),
    "HTTP/2 by upgrade, with a body": (once(post(PREDICT, b"x", *UPGRADE_2)), HARMLESS),
    "a websocket": (once(get(PREDICT, *WEBSOCKET)), REJECTED),
    "a websocket on what is open": (once(get("/healthz", *WEBSOCKET)), HARMLESS),
    "SSH": (once(b"SSH-2.0-OpenSSH_9.2\r\n"), REJECTED),
    "SMTP": (lambda: [b"EHLO x\r\nMAIL FROM:<a@b>\r\n", End.FIN], REJECTED),
    "PROXY 1": (once(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 80\r\n" + head(HEALTH, "Host: x")), REJECTED),
    "PROXY 2": (once(PROXY_2 + head(HEALTH, "Host: x")), REJECTED),
    "memcached": (once(b"stats\r\n\r\n"), REJECTED),
    "a Java object": (once(bytes.fromhex("aced0005") * 100), REJECTED),
    "64 kB of noise": (lambda: [os.urandom(65_536), End.FIN], DISTURBED),
    "64 kB of NULs": (lambda: [bytes(65_536), End.FIN], REJECTED),
    "nothing at all": (lambda: [End.FIN], HARMLESS),
}

EXPECTATIONS: dict[str, tuple[Steps, Expect]] = {
    "100-continue, then the body": (lambda: [authorized(f"POST {PREDICT} HTTP/1.1", "Content-Length: 1",
                                                        "Expect: 100-continue"), 0.2, b"x"], REFUSED),
    "100-continue without a body": (once(get("/healthz", "Expect: 100-continue")), ANSWERED),
    "100-continue with a wrong key": (once(head(f"POST {PREDICT} HTTP/1.1", "Host: x", "Authorization: Bearer ot_x",
                                                "Content-Length: 30000000", "Expect: 100-continue")), REFUSED),
    "an expectation that nobody knows": (once(post(PREDICT, b"x", "Expect: the unexpected")), ANSWERED_OR_REFUSED),
    "pipelined garbage after a request": (once(get("/healthz") + os.urandom(512)), DISTURBED),
    "500 requests in one": (once(get("/healthz") * 500), ANSWERED),
    "a key in the wrong scheme": (once(head("GET /v1/tasks HTTP/1.1", "Host: x", b"Authorization: Basic " + KEY)),
                                  REFUSED),
    "a key with letters of eight bits": (once(head("GET /v1/tasks HTTP/1.1", "Host: x",
                                                   b"Authorization: Bearer \xff\xc3\xa9")), REFUSED),
    "two keys": (once(get("/v1/tasks", "Authorization: Bearer ot_wrong")), ANSWERED_OR_REFUSED),
}  # fmt: skip

SLOW: dict[str, tuple[Steps, Expect]] = {
    "a head a byte at a time, in the end whole": (lambda: drip(head(HEALTH, "Host: x"), every_s=0.05), HARMLESS),
    "a head that ends half-way": (lambda: [get("/healthz")[:40], End.FIN], HARMLESS),
    "a reset half-way": (lambda: [get("/healthz")[:40], 0.1, End.RESET], HARMLESS),
}

STANDING: dict[str, tuple[Steps, Expect]] = {
    "nothing is sent": (lambda: [b""], CUT_OFF),
    "one letter": (lambda: [b"G"], CUT_OFF),
    "half a head": (lambda: [get("/healthz")[:40]], CUT_OFF),
    "50 MB of headers without an end": (
        lambda: [get("/healthz")[:-2], *[b"X-A: " + b"a" * 65_529 + b"\r\n"] * 800],
        REJECTED,
    ),
}
"""Whoever stands at the front ends these; a replica behind it never sees them."""

CASES = [
    *named("head", LINES),
    *named("size", SIZES),
    *named("protocol", PROTOCOLS),
    *named("expectation", EXPECTATIONS),
    *named("slow head", SLOW),
]
AT_THE_FRONT = named("standing head", STANDING)
