"""What the console shows pages of, and to whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serving.console.storage_source import StorageSource
from serving.http.browser_sessions import BrowserSession, BrowserSessions
from store.errors import FormatError
from store.records.events import ApiKey
from store.registry.api_keys import allows
from store.registry.store import Store
from store.registry.tenant_store import TenantStore

FindKey = Callable[[str, str], Awaitable[ApiKey]]
"""A secret and the client's address -> its key; raises `UnknownKeyError`."""

Statistics = Callable[[TenantStore], Awaitable[Mapping[str, object]]]
"""What the servers counted, as far as this caller may see it: what `GET /v1/statistics` answers."""


@dataclass(frozen=True)
class ConsoleState:
    """The store, how a visitor signs in, and what else this process knows.

    Without `sessions` there are no API keys: everyone may read, and nobody may change anything. `backbones` are the
    fingerprints of those that this process predicts on, none where it does not predict.
    """

    store: Store
    sessions: BrowserSessions | None = None
    find_key: FindKey | None = None
    backbones: tuple[str, ...] = ()
    storage: StorageSource | None = None
    statistics: Statistics | None = None
    requests: Statistics | None = None
    """The same with every task that was answered."""


@dataclass(frozen=True)
class Visit:
    """One request of one visitor: the store as the visitor may see it, and what the request says."""

    state: ConsoleState
    store: TenantStore
    session: BrowserSession | None
    base: str
    path: str
    fields: Mapping[str, str]
    request_id: str

    @property
    def tenant(self) -> str | None:
        return self.store.key.tenant

    @property
    def sees_all(self) -> bool:
        return self.store.key.tenant is None

    @property
    def is_operator(self) -> bool:
        """Whether messages may name paths and machines: to the operator's key, and where there is no server."""
        return self.sees_all and (self.session is not None or not self.state.backbones)

    def may(self, scope: str) -> bool:
        return self.session is not None and allows(self.store.key, scope)

    def text(self, name: str) -> str | None:
        """Return a field of the query or the form without spaces around it, None where it is empty."""
        return self.fields.get(name, "").strip() or None

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise FormatError(f"the field {name!r} is empty: fill it in")
        return value

    def number(self, name: str) -> int | None:
        """Return a field as a whole number from 1, None where it is empty."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 9 and int(value) > 0):
            raise FormatError(f"{name} {value[:40]!r} is not a whole number from 1: give one")
        return int(value)


@dataclass(frozen=True)
class Shown:
    """A page: its template, what it shows, and the status."""

    template: str
    values: Mapping[str, object]
    status: int = 200


@dataclass(frozen=True)
class Moved:
    """Another page, as a path below the console; `cookie` is set, or with "" taken away."""

    path: str
    cookie: str | None = None


@dataclass(frozen=True)
class File:
    """Text to be kept as a file of this name."""

    name: str
    media_type: str
    content: str


Answer = Shown | Moved | File
