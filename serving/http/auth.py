"""Whose request it is: API keys over HTTP, looked up at most twice a second."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from serving.runtime.predictor import Predictor
from store.errors import UnknownKeyError
from store.records.events import ApiKey
from store.registry.api_keys import ANONYMOUS, authenticate, digest_of
from store.registry.store import Store
from store.registry.tenant_store import TenantStore

KEY_VALID_S = 0.5  # how long a revoked key may go unnoticed


class ApiKeyCache:
    """The keys of the last requests, by the digest of their secret; refused secrets are not kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[str, ApiKey] = {}
        self._since = time.monotonic()

    def cached(self, secret: str) -> ApiKey | None:
        if time.monotonic() - self._since > KEY_VALID_S:
            self._keys, self._since = {}, time.monotonic()
        return self._keys.get(digest_of(secret))

    def find(self, secret: str) -> ApiKey:
        """Look the key up; raise `UnknownKeyError` unless it is valid."""
        keys = self._keys
        key = authenticate(self._store, secret)
        keys[key.sha256] = key
        return key


@dataclass(frozen=True)
class AppState:
    """What the routes answer from; without API keys, everyone may read and nobody may change anything."""

    predictor: Predictor
    store: Store
    api_keys: ApiKeyCache | None
    workers: ThreadPoolExecutor


def app_state(request: Request) -> AppState:
    return cast(AppState, request.app.state.app_state)


async def authenticate_caller(request: Request) -> TenantStore:
    """Return the store as the caller may see it; raise `UnknownKeyError` where the server needs a key and gets none."""
    state = app_state(request)
    if state.api_keys is None:
        return TenantStore(state.store, ANONYMOUS)
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise UnknownKeyError("this server asks for an API key: send `Authorization: Bearer ot_…`")
    key = state.api_keys.cached(secret)
    if key is None:
        key = await run_in_threadpool(state.api_keys.find, secret)
    return TenantStore(state.store, key)


Caller = Annotated[TenantStore, Depends(authenticate_caller)]
