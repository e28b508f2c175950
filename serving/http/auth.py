"""Whose request it is: API keys over HTTP. A flood of wrong ones is cheap, and does not delay a right one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from serving.http.bodies import BodyBudget
from serving.http.browser_sessions import BrowserSessions, key_of
from serving.http.errors import too_many
from serving.http.limits import HttpLimits
from serving.http.rates import RateLimit
from serving.http.shadows import Shadows
from serving.runtime.predictor import Predictor
from serving.runtime.served_versions import ServedVersions
from serving.telemetry.recorder import Recorder
from serving.telemetry.request_record import record_of
from serving.telemetry.snapshot import Peers, Snapshot, take_snapshot
from store.errors import UnknownKeyError
from store.records.events import ApiKey
from store.registry.api_keys import ANONYMOUS, SECRET, authenticate, digest_of
from store.registry.store import Store
from store.registry.tenant_store import TenantStore

T = TypeVar("T")
MOST_KEYS = 10_000  # of each kind that are remembered

NO_KEY = "this server asks for an API key: send `Authorization: Bearer ot_…`"
WRONG_KEY = "this API key is not valid: send `Authorization: Bearer ot_…` with one that is"


class ApiKeys:
    """The keys since the store's last change, by the digests of their secrets.

    While the store does not answer, they hold as long as a ref does: see `StoreWatch`.

    Keys that were right before are looked up by a thread of their own. Secrets that are seen for the first time share
    another one, whose queue is bounded, and a client that keeps sending wrong ones is refused without a look-up.
    """

    def __init__(self, store: Store, versions: ServedVersions, limits: HttpLimits) -> None:
        self._store, self._versions = store, versions
        self._known: dict[str, tuple[int, ApiKey]] = {}  # with the store's generation, when it was right
        self._wrong: dict[str, int] = {}
        self._lock = threading.Lock()  # both threads write the tables
        self._asked: dict[str, asyncio.Task[ApiKey]] = {}  # look-ups of known keys, which many requests may wait for
        self._for_known = ThreadPoolExecutor(1, "known keys")
        self._for_unknown = ThreadPoolExecutor(1, "unknown keys")
        self._waiting, self._most_waiting = 0, limits.unknown_keys
        self._refused = RateLimit(limits.unknown_keys_of_a_client, burst=2 * limits.unknown_keys_of_a_client)

    def cached(self, secret: str) -> ApiKey | None:
        """Return the key where it is known without waiting."""
        since, key = self._known.get(digest_of(secret), (None, None))
        return key if key is not None and since == self._versions.known_generation() else None

    async def find(self, secret: str, client: str) -> ApiKey:
        """Look the key up; raise `UnknownKeyError` unless it is valid."""
        digest = digest_of(secret)
        if digest in self._known:
            asked = self._asked.get(digest)
            if asked is None:
                asked = self._asked[digest] = asyncio.ensure_future(self._look_up(self._for_known, secret, digest))
                asked.add_done_callback(lambda _: self._asked.pop(digest, None))
            return await asyncio.shield(asked)
        wrong_since = self._wrong.get(digest)
        is_wrong = wrong_since is not None and wrong_since == self._versions.known_generation()
        if is_wrong or SECRET.fullmatch(secret) is None:
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
            raise
        finally:
            self._waiting -= 1

    def close(self) -> None:
        for threads in (self._for_known, self._for_unknown):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, threads: ThreadPoolExecutor, secret: str, digest: str) -> ApiKey:
        return await asyncio.get_running_loop().run_in_executor(threads, self._find, secret, digest)

    def _find(self, secret: str, digest: str) -> ApiKey:
        generation = self._versions.generation()
        since, known = self._known.get(digest, (None, None))
        if known is not None and since == generation:
            return known
        self._versions.check()
        try:
            key = authenticate(self._store, secret)
        except UnknownKeyError:
            with self._lock:
                self._known.pop(digest, None)
                remember(self._wrong, digest, generation)
            raise
        with self._lock:
            remember(self._known, digest, (generation, key))
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
    sessions: BrowserSessions
    recorder: Recorder
    shadows: Shadows
    peers: Peers | None
    """Asks all replicas, this one among them, for their snapshots; None where this is the only one."""

    def snapshot(self) -> Snapshot:
        return take_snapshot(self.recorder, self.predictor, bodies_nbytes=self.bodies.nbytes)

    async def caller(self, headers: Mapping[bytes, bytes], client: str) -> TenantStore:
        """Return the store as the caller may see it; raise `UnknownKeyError` where a key is needed and not given."""
        if self.api_keys is None:
            return TenantStore(self.store, ANONYMOUS)
        scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return TenantStore(self.store, await self._key_of_session(headers))
        key = self.api_keys.cached(secret) or await self.api_keys.find(secret, client)
        return TenantStore(self.store, key)

    async def _key_of_session(self, headers: Mapping[bytes, bytes]) -> ApiKey:
        """Return the key of a page of the console, which sends its session's cookie and token."""
        session = self.sessions.of_script(headers)
        if session is None:
            raise UnknownKeyError(NO_KEY)
        key = await asyncio.get_running_loop().run_in_executor(self.workers, key_of, session, self.store)
        if key is None:
            raise UnknownKeyError(WRONG_KEY)
        return key


def app_state(request: Request) -> AppState:
    return cast(AppState, request.app.state.app_state)


async def authenticate_caller(request: Request) -> TenantStore:
    """Return the store as the caller may see it."""
    client = request.client.host if request.client else ""
    caller = await app_state(request).caller(dict(request.scope["headers"]), client)
    record_of(request.scope).caller = caller
    return caller


Caller = Annotated[TenantStore, Depends(authenticate_caller)]
