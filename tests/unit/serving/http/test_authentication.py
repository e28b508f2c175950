"""Who may ask for what, generated from the table of routes and of gRPC's methods: no route is forgotten."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import pytest
from support.asgi_calls import ask

from serving.grpc.server import grpc_server
from serving.grpc.service import Service
from serving.http.api import Api, make_api
from serving.runtime.predictor import Predictor
from store.registry.api_keys import SCOPES
from store.registry.store import Store
from store.registry.tenant_store import new_key

OPEN = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
NEEDS = {
    **dict.fromkeys([("POST", "/v1/bundles/{}"), ("PUT", "/v1/tags/{}"), ("DELETE", "/v1/tags/{}"),
                     ("DELETE", "/v1/versions/{}"), ("POST", "/v1/restore/{}")], "publish"),
    **dict.fromkeys([("PUT", "/v1/aliases/{}"), ("DELETE", "/v1/aliases/{}"), ("POST", "/v1/rollback/{}"),
                     ("PUT", "/v1/splits/{}"), ("DELETE", "/v1/splits/{}")], "promote"),
    **dict.fromkeys([("PUT", "/v1/rules/{}"), ("DELETE", "/v1/tasks/{}"), ("GET", "/v1/keys"), ("POST", "/v1/keys"),
                     ("DELETE", "/v1/keys/{}"), ("GET", "/metrics")], "admin"),
    ("GET", "/openapi.json"): "any",
}  # fmt: skip
"""The scope that a route needs where it is not `read`."""
ARGUMENTS = "version=1&key=team&value=x&tenant=acme&scope=read&ref=acme/cars"
NAMED = {
    **dict.fromkeys(("ServerMetadata", "RepositoryIndex"), b""),
    **dict.fromkeys(("ModelReady", "ModelMetadata", "ModelStatistics", "ModelInfer"), b"\n\tacme/cars"),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), b"\x12\tacme/cars"),
}
"""A message of each method of gRPC: a field with the name of a task where it has one."""
VALUES = {"ref": "acme/cars", "task": "acme/cars", "name": "acme/cars", "identifier": "k"}


@pytest.fixture(scope="module")
def api(predictor: Predictor, store: Store) -> Api:
    return make_api(predictor, store, keys=True)


@pytest.fixture(scope="module")
def strangers(store: Store) -> dict[str, str]:
    """Headers of those who may read nothing: no key, one that is not, one that was revoked."""
    key, revoked = new_key("acme", ("admin",))
    store.put_key(key)
    store.revoke_key(key.id)
    return {"none": "", "wrong": "Bearer ot_wrong", "revoked": f"Bearer {revoked}", "basic": "Basic b3Q6b3Q="}


def routes(api: Any) -> list[tuple[str, str]]:
    paths = api.openapi()["paths"]
    return [
        (method.upper(), re.sub(r"\{(\w+)\}", lambda found: VALUES[found[1]], path))
        for path, operations in paths.items()
        for method in operations
    ]


def test_every_route_but_health_refuses_who_has_no_key(api: Api, strangers: dict[str, str]) -> None:
    found = routes(api)
    assert len(found) >= 30
    for method, path in found:
        for kind, authorization in strangers.items():
            headers = {"authorization": authorization} if authorization else {}
            reply = ask(api, method, path, headers=headers)
            assert reply.status == (200 if path in OPEN else 401), (method, path, kind, reply.content)
            assert path in OPEN or "www-authenticate" in reply.headers


def test_no_route_tells_a_tenant_of_anothers_task(api: Api, store: Store) -> None:
    key, secret = new_key("globex", ("admin",))
    store.put_key(key)
    about = [(method, path) for method, path in routes(api) if "acme/cars" in path]
    assert len(about) >= 15
    for method, path in about:
        moves = {"aliases", "rollback", "splits"} & {*path.split("/")}
        asked = f"{path}@prod?{ARGUMENTS}" if moves else path
        reply = ask(api, method, asked, headers={"authorization": f"Bearer {secret}"})
        assert reply.status in ((404,) if moves else (400, 404, 422)), (method, path, reply.content)
        assert b"no task 'acme/cars' among those of this key" in reply.content or reply.status != 404
    own, secret = new_key("acme", ("read",))
    store.put_key(own)
    for path in ("/v1/tasks/acme/cars", "/v2/models/acme/cars", "/v2/models/acme/cars/ready", "/v2/models/stats"):
        assert ask(api, "GET", path, headers={"authorization": f"Bearer {secret}"}).status == 200


def test_every_method_of_grpc_but_health_refuses_who_has_no_key(api: Any, strangers: dict[str, str]) -> None:
    state = api.state.app_state
    methods = [*Service(state).methods, "/inference.GRPCInferenceService/ModelStreamInfer"]

    async def ask_all() -> list[str]:
        codes = []
        server = grpc_server(state, address="127.0.0.1:0")
        async with server as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in methods:
                for authorization in strangers.values():
                    metadata = (("authorization", authorization),)
                    call = channel.unary_unary(method)(b"", metadata=metadata, timeout=60)
                    codes.append((await call.code()).name)
        return codes

    assert asyncio.run(ask_all()) == ["UNAUTHENTICATED"] * len(strangers) * len(methods)
    assert len(methods) == 9


@pytest.mark.parametrize(("tenant", "scopes", "expected"), [
    ("acme", ("publish", "promote"), dict.fromkeys(NAMED, "PERMISSION_DENIED")),
    ("globex", ("admin",), {**dict.fromkeys(NAMED, "NOT_FOUND"), "ServerMetadata": "OK", "RepositoryIndex": "OK",
                            "ModelReady": "OK"}),
])  # fmt: skip
def test_no_method_of_grpc_answers_a_key_that_may_not_read_or_another_tenants(
    api: Any, store: Store, tenant: str, scopes: tuple[str, ...], expected: dict[str, str]
) -> None:
    """A task of another tenant is one that is not there; the methods that answer name it not, or say that it is not."""
    state = api.state.app_state
    key, secret = new_key(tenant, scopes)
    store.put_key(key)
    methods = list(Service(state).methods)

    async def ask_all() -> dict[str, str]:
        codes = {}
        found = b""
        async with (
            grpc_server(state, address="127.0.0.1:0") as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            for method in methods:
                call = channel.unary_unary(method)(
                    NAMED[method.rpartition("/")[2]], metadata=(("authorization", f"Bearer {secret}"),), timeout=60
                )
                codes[method.rpartition("/")[2]] = name = (await call.code()).name
                found += await call if name == "OK" else b""
        assert b"acme" not in found
        return codes

    assert asyncio.run(ask_all()) == expected


@pytest.mark.parametrize("scope", SCOPES)
def test_every_route_refuses_the_scopes_that_do_not_include_its_own(api: Api, store: Store, scope: str) -> None:
    key, secret = new_key("acme", (scope,))
    store.put_key(key)
    refused = set()
    for method, path in routes(api):
        needed = NEEDS.get((method, path.replace("acme/cars", "{}").replace("/k", "/{}")), "read")
        if path in OPEN or needed == "any" or scope in (needed, "admin"):
            continue
        named = f"{path}@prod" if {"aliases", "rollback", "splits"} & {*path.split("/")} else path
        reply = ask(api, method, f"{named}?{ARGUMENTS}", headers={"authorization": f"Bearer {secret}"})
        assert reply.status == 403, (method, path, reply.content)
        refused.add((method, path))
    assert bool(refused) == (scope != "admin")
