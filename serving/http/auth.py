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
    """The keys seen lately, by the digest of their secret; what was refused is not remembered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, ApiKey] = {}
        self._since = time.monotonic()

    def remembered(self, secret: str) -> ApiKey | None:
        if time.monotonic() - self._since > KEY_VALID_S:
            self._known, self._since = {}, time.monotonic()
        return self._known.get(digest_of(secret))

    def find(self, secret: str) -> ApiKey:
        """Look the key up; raise `UnknownKeyError` unless it is in force."""
        known = self._known
        key = authenticate(self._store, secret)
        known[key.sha256] = key
        return key


@dataclass(frozen=True)
class AppState:
    """What the routes answer from; without a keyring, anyone may read and nobody may change anything."""

    service: Predictor
    store: Store
    keyring: ApiKeyCache | None
    workers: ThreadPoolExecutor


def app_state(request: Request) -> AppState:
    return cast(AppState, request.app.state.served)


async def authenticate_caller(request: Request) -> TenantStore:
    """Return the store as the caller may see it; raise `UnknownKeyError` where keys are asked for and none is right."""
    served = app_state(request)
    if served.keyring is None:
        return TenantStore(served.store, ANONYMOUS)
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise UnknownKeyError("this server asks for an API key: send `Authorization: Bearer ot_…`")
    key = served.keyring.remembered(secret)
    if key is None:
        key = await run_in_threadpool(served.keyring.find, secret)
    return TenantStore(served.store, key)


Caller = Annotated[TenantStore, Depends(authenticate_caller)]
