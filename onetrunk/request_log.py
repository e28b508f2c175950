"""Which version answered a request, by the lines that a server wrote of it and the store's history."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from store.errors import NotFoundError, TaskNotFoundError

if TYPE_CHECKING:
    from store.registry.read_only_store import ReadOnlyStore

STDIN = "-"


@dataclass(frozen=True)
class AnsweringVersion:
    """A version as a line of the log names it, and what the history says of it.

    `aliases` are those that named it at the time of the request. `confirmed` says whether the history has a version of
    this number with this digest; without that, who published it and when is None.
    """

    task: str
    version: int
    digest: str
    depth: int
    aliases: tuple[str, ...]
    confirmed: bool
    published_at: str | None
    published_by: str | None


@dataclass(frozen=True)
class AnsweredRequest:
    """A request as the log has it; `line` is all that the log says."""

    request_id: str
    at: str
    status: int
    tenant: str
    versions: tuple[AnsweringVersion, ...]
    line: Mapping[str, Any]


def find_request(store: ReadOnlyStore, request_id: str, logs: Sequence[str | Path]) -> list[AnsweredRequest]:
    """Return the requests of this id in the logs, in their order; clients may have used one id more than once.

    Logs are files, also compressed as `.gz`, or `-` for standard input. Raises `NotFoundError` where no line has the
    id, or a file is missing.
    """
    found = [_answered(store, line) for log in logs for line in _lines(log, request_id)]
    if not found:
        names = ", ".join(map(str, logs))
        raise NotFoundError(f"no request {request_id[:80]!r} in {names}: give the log of the day, and of every server")
    return found


def _lines(log: str | Path, request_id: str) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of the request; what is not a line of a server's log is passed over."""
    with _opened(log) as file:
        for text in file:
            if request_id in text:  # parsing every line of a year would take hours
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict) and line.get("request_id") == request_id:
                    yield line


def read_lines(log: str | Path) -> Iterator[object]:
    """Yield every line as a value, None for one that is not JSON; logs are named as for `find_request`."""
    with _opened(log) as file:
        for text in file:
            try:
                yield json.loads(text)
            except (ValueError, RecursionError):
                yield None


@contextmanager
def _opened(log: str | Path) -> Iterator[IO[str]]:
    if str(log) == STDIN:
        yield sys.stdin
        return
    opener = gzip.open if str(log).endswith(".gz") else open
    try:
        with opener(log, "rt", encoding="utf-8", errors="replace") as file:
            yield file
    except FileNotFoundError:
        raise NotFoundError(f"no log {str(log)!r}: give a file that a server wrote") from None
    except (OSError, EOFError) as error:  # a folder, no permission, or no gzip file
        raise NotFoundError(f"log {str(log)!r} cannot be read ({error}): give a file that a server wrote") from None


def _answered(store: ReadOnlyStore, line: Mapping[str, Any]) -> AnsweredRequest:
    named = line.get("answers") or ([line] if "version" in line else [])
    versions = tuple(_version(store, answer, str(line["time"])) for answer in named)
    return AnsweredRequest(line["request_id"], line["time"], line["status"], line["tenant"], versions, line)


def _version(store: ReadOnlyStore, answer: Mapping[str, Any], at: str) -> AnsweringVersion:
    task, number, digest = answer["task"], answer["version"], answer["digest"]
    try:
        published = [event for event in store.history(task) if event.action == "publish" and event.version == number]
        aliases = tuple(target.alias for target in store.aliases_at(task, at) if target.version == number)
    except TaskNotFoundError:
        published, aliases = [], ()
    event = next((event for event in published if event.digest == digest), None)
    return AnsweringVersion(
        task,
        number,
        digest,
        answer["depth"],
        aliases,
        confirmed=event is not None,
        published_at=None if event is None else event.at,
        published_by=None if event is None else event.actor,
    )
