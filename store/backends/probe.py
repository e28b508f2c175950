"""Test whether a bucket keeps the promises that a store relies on: some S3 services ignore a request's conditions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

from store.backends.base import Backend
from store.errors import StorageError

FOLDER = "probe"
WRITERS = 8
ROUNDS = 5


@dataclass(frozen=True)
class Flaw:
    """A promise that the backend does not keep, and how that showed."""

    promise: str
    problem: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.problem}"


@dataclass(frozen=True)
class Trial:
    """Keys that no other trial uses, remembered so that all of them can be removed."""

    token: str
    keys: list[str] = field(default_factory=list)

    def key(self) -> str:
        self.keys.append(f"{FOLDER}/{self.token}-{len(self.keys)}")
        return self.keys[-1]


def probe(backend: Backend, *, rounds: int = ROUNDS) -> list[Flaw]:
    """Try every promise on objects that are removed at the end, and return what is not kept."""
    trial = Trial(os.urandom(8).hex())
    try:
        return [
            *_check_creation(backend, trial, rounds),
            *_check_reading(backend, trial),
            *_check_listing(backend, trial),
            *_check_removal(backend, trial),
        ]
    finally:
        backend.delete(trial.keys)


def require_creation(backend: Backend) -> None:
    """Raise `StorageError` unless of writers that race for one key exactly one wins."""
    trial = Trial(os.urandom(8).hex())
    try:
        flaw = next(_check_creation(backend, trial, rounds=1), None)
    finally:
        backend.delete(trial.keys)
    if flaw is not None:
        raise StorageError(f"{backend.url} cannot hold a store ({flaw}): use a bucket that honours If-None-Match")


def _check_creation(backend: Backend, trial: Trial, rounds: int) -> Iterator[Flaw]:
    promise = "a key is created once"
    key = trial.key()
    if not backend.create(key, b"first"):
        yield Flaw(promise, "an object that nobody created was there already")
    if backend.create(key, b"second") or backend.read(key) != b"first":
        yield Flaw(promise, "an object that was there was written over")
    for number in range(1, rounds + 1):
        key = trial.key()
        winners = _race(backend, key)
        if len(winners) != 1:
            yield Flaw(promise, f"{len(winners)} of {WRITERS} writers at once created it (race {number})")
        elif backend.read(key) != b"%d" % winners[0]:
            yield Flaw(promise, f"the object is not that of the writer who won (race {number})")


def _race(backend: Backend, key: str) -> list[int]:
    """Let writers create one key at once; return the numbers of those whose `create` returned True."""
    start = Barrier(WRITERS)

    def create(writer: int) -> bool:
        start.wait()
        return backend.create(key, b"%d" % writer)

    with ThreadPoolExecutor(WRITERS) as pool:
        return [writer for writer, won in enumerate(pool.map(create, range(WRITERS))) if won]


def _check_reading(backend: Backend, trial: Trial) -> Iterator[Flaw]:
    key = trial.key()
    for data in (b"one", b"", b"another"):
        backend.put(key, data)
        if backend.read(key) != data or backend.size(key) != len(data):
            yield Flaw("what was written is what is read", f"{len(data)} bytes were put and others came back")


def _check_listing(backend: Backend, trial: Trial) -> Iterator[Flaw]:
    promise = "a list shows what is there"
    keys = {trial.key() for _ in range(5)}
    for key in keys:
        backend.put(key, b"listed")
    if missing := keys - _listed(backend):
        yield Flaw(promise, f"{len(missing)} of {len(keys)} objects just written are not in it")
    backend.delete(sorted(keys))
    if ghosts := keys & _listed(backend):
        yield Flaw(promise, f"{len(ghosts)} of {len(keys)} objects just deleted are still in it")


def _listed(backend: Backend) -> set[str]:
    return {file.path for file in backend.list(FOLDER)}


def _check_removal(backend: Backend, trial: Trial) -> Iterator[Flaw]:
    promise = "a key is free once its object is gone"
    key, target = trial.key(), trial.key()
    backend.put(key, b"moved")
    backend.move(key, target)
    if backend.size(key) is not None or backend.read(target) != b"moved":
        yield Flaw(promise, "an object that was moved is not at its new key alone")
    backend.delete([target])
    if backend.size(target) is not None or not backend.create(target, b"again"):
        yield Flaw(promise, "an object that was deleted is still there")
