from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from support.oracle import make_backbone, make_task, png
from support.servers import free_port

from serving.config import ServeConfig
from serving.server import running
from store.registry.bundle import export_bundle
from store.registry.store import Store
from store.registry.tenant_store import new_key
from store.weights.backbones import encode

pytestmark = pytest.mark.cluster
CALLERS = ("nobody", "unknown", "revoked", "stranger", "reader")
TASKS = ("acme/cars", "acme/cars", "acme/gone", "acme/vans", "acme/vans", "globex/cars", "globex/secret")
IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
INPUT = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(IMAGE).decode()]}
INFERENCE = json.dumps({"inputs": [INPUT]}).encode()


@dataclass(frozen=True)
class Route:
    """One request; `scope` "" asks for no key; `stranger` is what another tenant gets, `answer` the right key."""

    url: str
    scope: str
    body: bytes | None = None
    stranger: int = 404
    answer: int = 200


@dataclass(frozen=True)
class Served:
    """A running server that asks for keys, the store behind it, and what its callers send."""

    port: int
    store: Path
    secrets: Mapping[str, str]
    spare: str
    bundle: bytes

    def ask(self, method: str, url: str, *, key: str = "", body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            secret = self.secrets.get(key, key)
            sent = {"Authorization": f"Bearer {secret}"} if secret else {}
            connection.request(method, url, body=body, headers={**sent, **headers})
            response = connection.getresponse()
            return Reply(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)


def make_store(root: Path) -> tuple[Path, dict[str, str], str, bytes]:
    """Publish for two tenants, and make a key for each caller."""
    backbone = make_backbone(root / "backbone")
    with Store.open(root / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for number, task in enumerate(TASKS):
            made = make_task(backbone, root / str(number), depth=2, classes=3, seed=number)
            store.publish(task, made.folder, backbone="random/vit", depth=2)
        keys = {
            "revoked": ("acme", ("admin",)),
            "stranger": ("globex", ("admin",)),
            "reader": ("acme", ("read",)),
            "publish": ("acme", ("publish",)),
            "promote": ("acme", ("promote",)),
            "admin": ("acme", ("admin",)),
            "operator": (None, ("admin",)),
        }
        secrets = {}
        for name, (tenant, scopes) in keys.items():
            key, secrets[name] = new_key(tenant, scopes)
            store.put_key(key)
            if name == "revoked":
                store.revoke_key(key.id)
        spare, _ = new_key("acme", ("read",))
        store.put_key(spare)
        bundle = io.BytesIO()
        export_bundle(store, ["acme/cars:1"], bundle, with_backbone=False)
    secrets |= {"nobody": "", "unknown": new_key(None, ("admin",))[1], "read": secrets["reader"]}
    return root / "store", secrets, spare.id, bundle.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    store, secrets, spare, bundle = make_store(tmp_path_factory.mktemp("registry"))
    port, settings = free_port(), ServeConfig(store=str(store), dtype="float32", threads=1, keys=True)
    with running({"/": settings}, host="127.0.0.1", port=port):
        yield Served(port, store, secrets, spare, bundle)


def routes(served: Served) -> dict[tuple[str, str], Route]:
    """Every route with a request; in this order, each finds what it needs."""
    return {
        ("GET", "/healthz"): Route("/healthz", "", stranger=200),
        ("GET", "/readyz"): Route("/readyz", "", stranger=200),
        ("GET", "/openapi.json"): Route("/openapi.json", "read", stranger=200),
        # Before any request of the stranger, whose own it would tell it.
        ("GET", "/v1/statistics"): Route("/v1/statistics", "read", stranger=200),
        ("GET", "/metrics"): Route("/metrics", "operator", stranger=403),
        ("POST", "/v1/predict/{ref}"): Route("/v1/predict/acme/cars:1", "read", IMAGE),
        ("POST", "/v1/predict"): Route("/v1/predict?ref=acme/cars:1&ref=acme/vans", "read", IMAGE),
        ("GET", "/v2/health/live"): Route("/v2/health/live", "", stranger=200),
        ("GET", "/v2/health/ready"): Route("/v2/health/ready", "", stranger=200),
        ("GET", "/v2"): Route("/v2", "read", stranger=200),
        ("GET", "/v2/models/stats"): Route("/v2/models/stats", "read", stranger=200),
        ("GET", "/v2/models/{name}"): Route("/v2/models/acme/cars", "read"),
        ("GET", "/v2/models/{name}/ready"): Route("/v2/models/acme/cars/ready", "read"),
        ("GET", "/v2/models/{name}/stats"): Route("/v2/models/acme/cars/stats", "read"),
        ("POST", "/v2/models/{name}/infer"): Route("/v2/models/acme/cars/versions/1/infer", "read", INFERENCE),
        ("POST", "/v2/repository/index"): Route("/v2/repository/index", "read", b"{}", stranger=200),
        ("POST", "/v2/repository/models/{name}/load"): Route("/v2/repository/models/acme/cars/load", "read", b"{}"),
        ("POST", "/v2/repository/models/{name}/unload"): Route(
            "/v2/repository/models/acme/cars/unload", "read", b"{}", answer=422
        ),
        ("GET", "/v1/tasks"): Route("/v1/tasks?text=cars&limit=5", "read", stranger=200),
        ("GET", "/v1/tasks/{task}"): Route("/v1/tasks/acme/cars", "read"),
        ("GET", "/v1/versions/{ref}"): Route("/v1/versions/acme/cars:1", "read"),
        ("GET", "/v1/history/{task}"): Route("/v1/history/acme/cars", "read"),
        ("GET", "/v1/bundles/{ref}"): Route("/v1/bundles/acme/cars:1", "read"),
        ("GET", "/v1/backbones"): Route("/v1/backbones", "read", stranger=200),
        ("POST", "/v1/bundles/{task}"): Route("/v1/bundles/acme/new", "publish", served.bundle),
        ("PUT", "/v1/tags/{ref}"): Route("/v1/tags/acme/cars:1?key=team&value=vision", "publish"),
        ("DELETE", "/v1/tags/{ref}"): Route("/v1/tags/acme/cars:1?key=team", "publish"),
        ("PUT", "/v1/aliases/{ref}"): Route("/v1/aliases/acme/cars@prod?version=1", "promote"),
        ("PUT", "/v1/splits/{ref}"): Route("/v1/splits/acme/cars@prod?share=1=90&share=2=10", "promote"),
        ("DELETE", "/v1/splits/{ref}"): Route("/v1/splits/acme/cars@prod", "promote"),
        ("DELETE", "/v1/aliases/{ref}"): Route("/v1/aliases/acme/cars@prod", "promote"),
        ("POST", "/v1/rollback/{ref}"): Route("/v1/rollback/acme/cars@latest", "promote"),
        ("DELETE", "/v1/versions/{ref}"): Route("/v1/versions/acme/cars:2", "publish"),
        ("POST", "/v1/restore/{ref}"): Route("/v1/restore/acme/cars:2", "publish"),
        ("PUT", "/v1/rules/{ref}"): Route("/v1/rules/acme/cars@gold?protected=true", "admin"),
        ("DELETE", "/v1/tasks/{task}"): Route("/v1/tasks/acme/gone", "admin"),
        ("GET", "/v1/keys"): Route("/v1/keys", "admin", stranger=200),
        ("POST", "/v1/keys"): Route("/v1/keys?tenant=acme&scope=read", "admin", stranger=403),
        ("DELETE", "/v1/keys/{identifier}"): Route(f"/v1/keys/{served.spare}", "admin"),
    }


def test_every_route_answers_the_right_key_and_no_other(served: Served) -> None:
    schema = served.ask("GET", "/openapi.json", key="reader").json
    table = routes(served)
    there = {(method.upper(), path) for path, verbs in schema["paths"].items() for method in verbs}
    assert there == table.keys(), "a route lacks its line in this table, or a line its route"
    for (method, _), route in table.items():
        got = {caller: served.ask(method, route.url, key=caller, body=route.body) for caller in CALLERS}
        if not route.scope:
            assert {reply.status for reply in got.values()} == {route.answer}
            continue
        for caller in ("nobody", "unknown", "revoked"):
            assert (got[caller].status, got[caller].headers["www-authenticate"]) == (401, "Bearer"), (method, route)
        assert got["stranger"].status == route.stranger, (method, route)
        assert route.stranger != 200 or b"acme" not in got["stranger"].body, (method, route)
        assert got["reader"].status == (route.answer if route.scope == "read" else 403), (method, route)
        if route.scope != "read":
            assert served.ask(method, route.url, key=route.scope, body=route.body).status == route.answer, (
                method,
                route,
            )


@pytest.mark.parametrize("verb", ["GET /v1/tasks", "GET /v1/versions", "GET /v1/history", "POST /v1/predict"])
def test_a_strangers_task_and_none_at_all_get_the_same_answer_byte_for_byte(served: Served, verb: str) -> None:
    method, path = verb.split()
    body = IMAGE if method == "POST" else None
    there, nowhere = (
        served.ask(method, f"{path}/globex/{name}", key="admin", body=body) for name in ("secret", "nothing")
    )
    assert there.status == nowhere.status == 404
    assert there.body.replace(b"secret", b"nothing") == nowhere.body
    assert there.headers.keys() == nowhere.headers.keys()


def test_a_missing_task_of_ones_own_is_helped_with_ones_own_names(served: Served) -> None:
    reply = served.ask("POST", "/v1/predict/acme/car", key="reader", body=IMAGE)
    assert (reply.status, reply.json["error"]) == (404, "TaskNotFoundError")
    assert "did you mean 'acme/cars'" in reply.json["message"]
    assert str(served.store) not in reply.json["message"]


def test_a_revoked_key_is_refused_within_a_second_and_a_new_one_works_at_once(served: Served) -> None:
    made = served.ask("POST", "/v1/keys?scope=read", key="admin").json
    assert "sha256" not in made
    assert made["tenant"] == "acme"
    assert served.ask("GET", "/v1/tasks", key=str(made["secret"])).status == 200
    assert served.ask("DELETE", f"/v1/keys/{made['id']}", key="admin").json["revoked_at"]
    revoked = time.monotonic()
    while served.ask("GET", "/v1/tasks", key=str(made["secret"])).status == 200:
        assert time.monotonic() - revoked < 1
    assert served.ask("GET", "/v1/tasks", key="admin").status == 200


def test_what_a_replica_answers_with_is_not_removed_under_it(served: Served) -> None:
    assert served.ask("POST", "/v1/predict/acme/vans:1", key="reader", body=IMAGE).status == 200
    reply = served.ask("DELETE", "/v1/versions/acme/vans:1", key="publish")
    assert (reply.status, reply.json["error"]) == (409, "InUseError")
    assert "in use by a server" in reply.json["message"]


def test_a_bundle_that_is_too_large_is_refused_before_it_is_sent(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as raw:
        lines = ("POST /v1/bundles/acme/huge HTTP/1.1", "Host: x", f"Authorization: Bearer {served.secrets['publish']}",
                 f"Content-Length: {1 << 40}", "Connection: close")  # fmt: skip
        # The ingress hands a body on once its buffer of 64 kB is full.
        raw.sendall("\r\n".join((*lines, "", "")).encode() + bytes(128 << 10))
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"Content Too Large" in answer
    assert b"larger than 268,435,456 bytes" in answer


def test_a_version_goes_from_one_tenant_to_another_as_a_bundle_with_its_files_unchanged(served: Served) -> None:
    bundle = served.ask("GET", "/v1/bundles/acme/vans:1", key="reader")
    assert bundle.headers["content-type"] == "application/x-tar"
    sent = served.ask("POST", "/v1/bundles/globex/vans", key="stranger", body=bundle.body)
    assert sent.status == 200
    before, after = (
        served.ask("GET", f"/v1/versions/{ref}", key="operator").json["manifest"]
        for ref in ("acme/vans:1", "globex/vans")
    )
    assert (before["adapter"], before["head"]) == (after["adapter"], after["head"])
    torn = served.ask("POST", "/v1/bundles/globex/vans", key="stranger", body=bundle.body[:-2048])
    assert (torn.status, torn.json["error"]) == (400, "FormatError")


def test_the_key_is_looked_at_before_the_arguments_and_the_body(served: Served) -> None:
    for method, url, body in (
        ("GET", "/v1/tasks?limit=0", None),
        ("PUT", "/v1/aliases/acme/cars@prod", None),
        ("POST", "/v1/bundles/acme/cars", b"no bundle"),
        ("POST", "/v1/predict/acme/..", b"no image"),
    ):
        assert served.ask(method, url, body=body).status == 401


def test_a_page_of_another_origin_gets_no_leave_to_read_or_change(served: Served) -> None:
    for method, asked in (("OPTIONS", "DELETE"), ("OPTIONS", "PUT"), ("DELETE", ""), ("PUT", "")):
        reply = served.ask(
            method, "/v1/tasks/acme/cars", Origin="http://evil.example", **{"Access-Control-Request-Method": asked}
        )
        assert reply.status in (401, 405)
        assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize(
    ("method", "url", "status", "error"),
    [
        ("GET", "/v1/tasks?limit=0", 400, "InvalidSettingError"),
        ("GET", "/v1/tasks?limit=many", 400, "InvalidSettingError"),
        ("GET", "/v1/tasks?tag=team", 400, "InvalidSettingError"),
        ("GET", "/v1/versions/acme/cars@prod?at=yesterday", 400, "InvalidSettingError"),
        ("PUT", "/v1/aliases/acme/cars?version=1", 400, "InvalidNameError"),
        ("PUT", "/v1/tags/acme/cars@latest?key=a&value=b", 400, "InvalidNameError"),
        ("POST", "/v1/restore/acme/cars@latest", 400, "InvalidNameError"),
        ("POST", "/v1/rollback/acme/cars:1", 400, "InvalidNameError"),
        ("GET", "/v1/versions/acme/..%2F..%2Fetc%2Fpasswd", 400, "InvalidNameError"),
        ("GET", "/v1/versions/acme/cars%00", 400, "InvalidNameError"),
        ("GET", "/v1/nothing", 404, "Not Found"),
        ("GET", "/docs", 404, "Not Found"),
        ("PATCH", "/v1/tasks", 405, "Method Not Allowed"),
        ("POST", "/v1/keys?scope=write&tenant=acme", 400, "InvalidSettingError"),
        ("POST", "/v1/keys?scope=read&tenant=globex", 403, "NotAllowedError"),
    ],
)
def test_what_is_malformed_gets_its_status_and_one_line_of_json(
    served: Served, method: str, url: str, status: int, error: str
) -> None:
    reply = served.ask(method, url, key="admin")
    assert (reply.status, reply.json["error"]) == (status, error)
    assert "\n" not in str(reply.json["message"])
