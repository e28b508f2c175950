"""Attacks on names, arguments and bodies of the routes: paths, encodings, numbers, JSON where none is read."""

from __future__ import annotations

import json
import urllib.parse

from support.hostile.cases import (
    ANSWERED_OR_REFUSED,
    HARMLESS,
    PREDICT,
    REFUSED,
    REJECTED,
    Case,
    Expect,
    Steps,
    authorized,
    get,
    named,
    once,
    post,
)

REFS = {
    "up": "../../etc/passwd",
    "up, encoded": "..%2F..%2Fetc%2Fpasswd",
    "up, encoded twice": "%252e%252e%252fetc",
    "dots encoded": "%2e%2e/%2e%2e/etc",
    "backslashes": "..%5C..%5Cx",
    "an overlong slash": "..%c0%af..%c0%afetc",
    "UTF-16 escapes": "%u002e%u002e%u2215x",
    "half an escape": "mallory/cars%",
    "an escape of other letters": "mallory/cars%zz",
    "a NUL": "mallory/cars%00.png",
    "a new line": "mallory/cars%0d%0aX-Injected:%20yes",
    "an absolute path": "%2Fetc%2Fpasswd",
    "a file": "file:%2F%2F%2Fetc%2Fpasswd",
    "a bucket": "s3:%2F%2Fbucket%2Fkey",
    "a drive": "C:%5CWindows",
    "full-width dots": urllib.parse.quote("\uff0e\uff0e\uff0fx"),
    "right to left": urllib.parse.quote("mallory/\u202ecars"),
    "a lone surrogate": "mallory/%ed%a0%80",
    "parameters": "mallory/cars;jsessionid=1",
    "SQL": urllib.parse.quote("mallory/cars' OR 1=1 --"),
    "a template": urllib.parse.quote("{{7*7}}${7*7}"),
    "a command": urllib.parse.quote("$(id)`id`"),
    "markup": urllib.parse.quote("<script>alert(1)</script>"),
    "a hundred slashes": "/" * 100,
    "a name of 8,000 letters": "a" * 8_000,
    "8,000 levels": "a/" * 4_000 + "a",
    "a version of 4,000 digits": "mallory/cars:" + "9" * 4_000,
    "version minus one": "mallory/cars:-1",
    "version 2 ** 63": f"mallory/cars:{1 << 63}",
    "an alias of an alias": "mallory/cars@a@b",
    "a digest of zeros": "mallory/cars@sha256:" + "0" * 64,
}
VERBS = {
    "predict": lambda ref: post(f"/v1/predict/{ref}", b"x"),
    "show": lambda ref: get(f"/v1/versions/{ref}"),
    "bundle": lambda ref: get(f"/v1/bundles/{ref}"),
    "publish": lambda ref: post(f"/v1/bundles/{ref}", b"x"),
    "remove": lambda ref: authorized(f"DELETE /v1/versions/{ref} HTTP/1.1"),
}

DEEP = b"[" * 200_000 + b"]" * 200_000
JSON_BOMBS = {
    "200,000 deep": DEEP,
    "objects 50,000 deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a number of a million digits": b'{"version": ' + b"9" * 1_000_000 + b"}",
    "the number 1e999999999": b'{"version": 1e999999999}',
    "NaN and Infinity": b'{"max_drop": NaN, "min_accuracy": -Infinity}',
    "a key twice": b'{"version": 1, "version": 2}',
    "100,000 keys": json.dumps({f"k{i}": i for i in range(100_000)}).encode(),
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a prototype": b'{"__proto__": {"admin": true}, "__class__": "os.system"}',
    "UTF-16": '{"version": 1}'.encode("utf-16"),
    "half of it": b'{"version": ',
}

QUERIES: dict[str, str] = {
    "a limit of 4,000 digits": "/v1/tasks?limit=" + "9" * 4_000,
    "a limit of NaN": "/v1/tasks?limit=NaN",
    "a negative limit": "/v1/tasks?limit=-1",
    "a limit of 1e3": "/v1/tasks?limit=1e3",
    "a limit in other digits": "/v1/tasks?limit=" + urllib.parse.quote("\u0661\u0660\u0660\u0660\u0660"),
    "a pattern of 60,000 percent signs": "/v1/tasks?text=" + "%25" * 20_000,
    "a pattern of wildcards": "/v1/tasks?text=" + "%25a" * 2_000,
    "1,500 tags": "/v1/tasks?" + "&".join(f"tag=k{i}=v" for i in range(1_500)),
    "a tag without a value": "/v1/tasks?tag=" + "k" * 5_000,
    "a NUL to go on after": "/v1/tasks?after=%00",
    "a text that is no UTF-8": "/v1/tasks?text=%ff%fe",
    "a page after SQL": "/v1/tasks?after=" + urllib.parse.quote("'; DROP TABLE versions; --"),
    "an alias of 8,000 letters": "/v1/tasks?alias=" + "a" * 8_000,
    "the same name 500 times": "/v1/tasks?" + "limit=1&" * 500,
    "a time of 4,000 digits": "/v1/versions/mallory/cars?at=" + "9" * 4_000,
    "a time that is no time": "/v1/versions/mallory/cars?at=2026-99-99T99:99:99",
    "a time before all": "/v1/versions/mallory/cars?at=-262143-01-01T00:00:00",
    "a history with arguments": "/v1/history/mallory/cars?limit=NaN&limit=1",
}

CHANGES: dict[str, tuple[str, str, Expect]] = {
    "an alias on a version of 4,000 digits": ("PUT", "/v1/aliases/mallory/cars@a?version=" + "9" * 4_000, REFUSED),
    "an alias on version 2 ** 70": ("PUT", f"/v1/aliases/mallory/cars@a?version={1 << 70}", REFUSED),
    "an alias on version NaN": ("PUT", "/v1/aliases/mallory/cars@a?version=NaN", REFUSED),
    "an alias of another tenant": ("PUT", "/v1/aliases/acme/cars@latest?version=1", REFUSED),
    "a rule with NaN": ("PUT", "/v1/rules/mallory/cars@gold?max_drop=NaN", REFUSED),
    "a rule with infinity": ("PUT", "/v1/rules/mallory/cars@gold?min_accuracy=1e999", REFUSED),
    "a rule for all tenants": ("PUT", "/v1/rules/*@latest?protected=true", REFUSED),
    "a rule for another tenant": ("PUT", "/v1/rules/acme/*@latest?protected=true", REFUSED),
    "a tag of control letters": ("PUT", "/v1/tags/mallory/cars?key=k&value=%1b%5b2J", REFUSED),
    "a tag of 8,000 letters": ("PUT", "/v1/tags/mallory/cars?key=k&value=" + "v" * 8_000, REFUSED),
    "a key of another tenant": ("POST", "/v1/keys?scope=admin&tenant=acme", REFUSED),
    "a key for no tenant": ("POST", "/v1/keys?scope=admin&tenant=", ANSWERED_OR_REFUSED),
    "a key with 1,000 scopes": ("POST", "/v1/keys?" + "scope=read&" * 1_000, ANSWERED_OR_REFUSED),
    "a key with a scope of 8,000 letters": ("POST", "/v1/keys?scope=" + "r" * 8_000, REFUSED),
    "the key of another tenant": ("DELETE", "/v1/keys/" + "0" * 32, REFUSED),
    "a key that is a path": ("DELETE", "/v1/keys/..%2F..%2Fetc", REFUSED),
    "a task of another tenant": ("DELETE", "/v1/tasks/acme/cars", REFUSED),
    "a restore of another tenant's": ("POST", "/v1/restore/acme/cars", REFUSED),
    "a rollback of what never moved": ("POST", "/v1/rollback/mallory/cars@never", REFUSED),
}

PREDICTIONS: dict[str, str] = {
    "no ref": "/v1/predict",
    "257 refs": "/v1/predict?" + "ref=mallory/cars&" * 257,
    "5,000 refs": "/v1/predict?" + "ref=a&" * 5_000,
    "a ref of another tenant among ours": "/v1/predict?ref=mallory/cars&ref=acme/cars",
    "top 0": PREDICT + "?top=0",
    "top of 4,000 digits": PREDICT + "?top=" + "9" * 4_000,
    "logits that are no truth": PREDICT + "?logits=maybe",
    "a timeout of NaN": PREDICT + "?timeout_ms=NaN",
    "a timeout of infinity": PREDICT + "?timeout_ms=inf",
    "a negative timeout": PREDICT + "?timeout_ms=-1",
    "a timeout of 1e-320": PREDICT + "?timeout_ms=1e-320",
    "a timeout of 1e308": PREDICT + "?timeout_ms=1e308",
}


def _refs() -> list[Case]:
    # uvicorn refuses what is no text in a target before a route sees it
    odd = Expect(REFUSED.statuses, silence=True)
    return [
        Case(f"ref: {verb}, {name}", once(make(ref)), odd if verb == "predict" and len(ref) > 5_000 else REFUSED)
        for verb, make in VERBS.items()
        for name, ref in (REFS.items() if verb == "predict" else list(REFS.items())[:12])
    ]


def _json() -> list[Case]:
    """JSON where no route reads any: it is ignored or refused, and never parsed."""
    alias: dict[str, tuple[Steps, Expect]] = {
        f"{name}, to an alias": (once(post("/v1/aliases/mallory/cars@a", data, method="PUT")), REFUSED)
        for name, data in JSON_BOMBS.items()
    }
    others: dict[str, tuple[Steps, Expect]] = {
        "200,000 deep, to a search": (once(post("/v1/tasks", DEEP, method="GET")), ANSWERED_OR_REFUSED),
        "200,000 deep, to a removal": (once(post("/v1/tasks/mallory/none", DEEP, method="DELETE")), REFUSED),
        "200,000 deep, to a prediction": (
            once(post(PREDICT, DEEP, "Content-Type: application/json")),
            REFUSED,
        ),
        "a form, to a prediction": (
            once(post(PREDICT, b"ref=acme/cars", "Content-Type: application/x-www-form-urlencoded")),
            REFUSED,
        ),
        "parts without an end, to a prediction": (
            once(post(PREDICT, b"--b\r\n" * 50_000, "Content-Type: multipart/form-data; boundary=b")),
            REFUSED,
        ),
        "a boundary of 60,000 letters": (
            once(post(PREDICT, b"x", "Content-Type: multipart/form-data; boundary=" + "b" * 60_000)),
            REJECTED,
        ),
        "the form of another server": (
            once(post("/v2/models/mallory%2Fcars/infer", DEEP, "Content-Type: application/json")),
            REFUSED,
        ),
    }
    return named("json", {**alias, **others})


CASES = [
    *_refs(),
    *_json(),
    *[Case(f"query: {name}", once(get(target)), ANSWERED_OR_REFUSED) for name, target in QUERIES.items()],
    *[
        Case(f"change: {name}", once(authorized(f"{method} {target} HTTP/1.1", "Content-Length: 0")), expect)
        for name, (method, target, expect) in CHANGES.items()
    ],
    *[Case(f"prediction: {name}", once(post(target, b"x")), REFUSED) for name, target in PREDICTIONS.items()],
    Case("query: the schema with a prefix", once(get("/openapi.json", "X-Forwarded-Prefix: //evil")), HARMLESS),
]
