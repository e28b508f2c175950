"""Whose request it is: API keys over HTTP, looked up again where the store has changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from serving.runtime.predictor import Predictor
from serving.runtime.served_versions import ServedVersions
from store.errors import UnknownKeyError
from store.records.events import ApiKey
from store.registry.api_keys import ANONYMOUS, authenticate, digest_of
from store.registry.store import Store
from store.registry.tenant_store import TenantStore


class ApiKeyCache:
    """The keys of the requests since the store's last change, by the digest of their secret; refused ones are not kept.

    While the store does not answer, they hold as long as a ref does: see `StoreWatch`.
    """

    def __init__(self, store: Store, versions: ServedVersions) -> None:
        self._store, self._versions = store, versions
        self._keys: dict[str, ApiKey] = {}
        self._generation = 0

    def cached(self, secret: str) -> ApiKey | None:
        """Return the key where it is known without waiting."""
        return self._known(secret, self._versions.known_generation())

    def find(self, secret: str) -> ApiKey:
        """Look the key up; raise `UnknownKeyError` unless it is valid."""
        key = self._known(secret, self._versions.generation())
        if key is None:
            self._versions.check()
            keys = self._keys
            key = keys[digest_of(secret)] = authenticate(self._store, secret)
        return key

    def _known(self, secret: str, generation: int | None) -> ApiKey | None:
        if generation is None:
            return None
        if generation != self._generation:
            self._keys, self._generation = {}, generation
        return self._keys.get(digest_of(secret))


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
