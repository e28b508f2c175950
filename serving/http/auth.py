"""Whose request it is: API keys over HTTP. A flood of wrong ones is cheap, and does not delay a right one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from serving.http.bodies import BodyBudget
from serving.http.errors import too_many
from serving.http.limits import HttpLimits
from serving.http.rates import RateLimit
from serving.runtime.predictor import Predictor
from store.errors import UnknownKeyError
from store.records.events import ApiKey
from store.registry.api_keys import ANONYMOUS, SECRET, authenticate, digest_of
from store.registry.store import Store
from store.registry.tenant_store import TenantStore

T = TypeVar("T")
KEY_VALID_S = 0.5  # how long a revoked key may go unnoticed
MOST_KEYS = 10_000  # of each kind that are remembered

NO_KEY = "this server asks for an API key: send `Authorization: Bearer ot_…`"
WRONG_KEY = "this API key is not valid: send `Authorization: Bearer ot_…` with one that is"


class ApiKeys:
    """The keys of a store, looked up at most twice a second; secrets are remembered by their digest alone.

    Keys that were right before are looked up by a thread of their own. Secrets that are seen for the first time share
    another one, whose queue is bounded, and a client that keeps sending wrong ones is refused without a look-up.
    """

    def __init__(self, store: Store, limits: HttpLimits) -> None:
        self._store = store
        self._known: dict[str, tuple[float, ApiKey]] = {}  # digest -> when it was looked up
        self._wrong: dict[str, float] = {}
        self._asked: dict[str, asyncio.Task[ApiKey]] = {}  # look-ups of known keys, which many requests may wait for
        self._for_known = ThreadPoolExecutor(1, "known keys")
        self._for_unknown = ThreadPoolExecutor(1, "unknown keys")
        self._waiting, self._most_waiting = 0, limits.unknown_keys
        self._refused = RateLimit(limits.unknown_keys_of_a_client, burst=2 * limits.unknown_keys_of_a_client)

    def cached(self, secret: str) -> ApiKey | None:
        """Return the key if it was looked up just now."""
        at, key = self._known.get(digest_of(secret), (0.0, None))
        return key if time.monotonic() - at < KEY_VALID_S else None

    async def find(self, secret: str, client: str) -> ApiKey:
        """Look the key up; raise `UnknownKeyError` unless it is valid."""
        digest = digest_of(secret)
        if digest in self._known:
            asked = self._asked.get(digest)
            if asked is None:
                asked = self._asked[digest] = asyncio.ensure_future(self._look_up(self._for_known, secret, digest))
                asked.add_done_callback(lambda _: self._asked.pop(digest, None))
            return await asyncio.shield(asked)
        now = time.monotonic()
        if SECRET.fullmatch(secret) is None or now - self._wrong.get(digest, 0.0) < KEY_VALID_S:
            raise UnknownKeyError(WRONG_KEY)
        if (wait_s := self._refused.wait_s(client)) > 0:
            raise too_many("too many wrong API keys came from this address: try again later", retry_s=wait_s)
        if self._waiting >= self._most_waiting:
            raise too_many(f"{self._waiting} API keys wait to be looked up for the first time: try again later")
        self._waiting += 1
        try:
            return await self._look_up(self._for_unknown, secret, digest)
        except UnknownKeyError:
            self._refused.take(client)
            remember(self._wrong, digest, now)
            raise
        finally:
            self._waiting -= 1

    def close(self) -> None:
        for threads in (self._for_known, self._for_unknown):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, threads: ThreadPoolExecutor, secret: str, digest: str) -> ApiKey:
        since = time.monotonic()
        try:
            key = await asyncio.get_running_loop().run_in_executor(threads, authenticate, self._store, secret)
        except UnknownKeyError:
            self._known.pop(digest, None)
            raise
        remember(self._known, digest, (since, key))
        return key


def remember(table: dict[str, T], digest: str, value: T) -> None:
    """Put an entry last into a table that is bounded; its oldest entries go first."""
    table.pop(digest, None)
    table[digest] = value
    if len(table) > MOST_KEYS:
        del table[next(iter(table))]


@dataclass(frozen=True)
class AppState:
    """What the routes answer from; without API keys, everyone may read and nobody may change anything."""

    predictor: Predictor
    store: Store
    api_keys: ApiKeys | None
    workers: ThreadPoolExecutor
    limits: HttpLimits
    bodies: BodyBudget
    rate: RateLimit | None

    async def caller(self, headers: Mapping[bytes, bytes], client: str) -> TenantStore:
        """Return the store as the caller may see it; raise `UnknownKeyError` where a key is needed and not given."""
        if self.api_keys is None:
            return TenantStore(self.store, ANONYMOUS)
        scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise UnknownKeyError(NO_KEY)
        key = self.api_keys.cached(secret) or await self.api_keys.find(secret, client)
        return TenantStore(self.store, key)


def app_state(request: Request) -> AppState:
    return cast(AppState, request.app.state.app_state)


async def authenticate_caller(request: Request) -> TenantStore:
    """Return the store as the caller may see it."""
    client = request.client.host if request.client else ""
    return await app_state(request).caller(dict(request.scope["headers"]), client)


Caller = Annotated[TenantStore, Depends(authenticate_caller)]
