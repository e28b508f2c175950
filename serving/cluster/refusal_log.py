"""Counts and logs what the ingress refuses by itself, which reaches no replica.

HAProxy, and the part of ours in Ray's proxy, write a line for each into a named pipe: the fields of
`haproxy_config.REFUSAL`. The server's own process reads them: it lives as long as the server, and its pipe has room for
thousands of lines, where a socket for datagrams has it for ten.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from serving.cluster.haproxy_config import REFUSALS, REFUSED
from serving.telemetry.log_sink import ATOMIC_NBYTES, MOST_PATH, LogSink, iso
from serving.telemetry.refusals import REASONS, SETTING, Series, write_refusals

COUNTS = "refused.json"
PIPE_NBYTES, CHUNK_NBYTES = 1 << 20, 1 << 16
WRITE_S = 0.25
GROUP_S = 0.05
"""What comes within this time is read at once: a flood of refusals must not cost much by being counted."""
FIELDS = 8


@dataclass(frozen=True)
class Refusal:
    """One request that the ingress answered by itself: with `state`, HAProxy's two letters for how it ended."""

    status: str
    state: str
    backend: str
    ms: str
    method: str
    received: str
    sent: str
    id: str
    path: str

    @classmethod
    def parse(cls, line: str) -> Refusal | None:
        """Return what the line says; None for another line, and for an answer of a replica."""
        mark, *fields = line.rstrip("\n").split(" ", FIELDS + 1)
        if mark != REFUSED or len(fields) != FIELDS + 1:
            return None
        refusal = cls(*fields)
        by_client_or_replica = refusal.state.startswith(("--", "CD", "CH", "CR", "CQ", "CC", "cD"))
        return None if by_client_or_replica or not refusal.status.isdigit() else refusal

    @property
    def series(self) -> Series:
        """The status and the reason, of those in `REASONS`."""
        reason = {"400": "malformed", "404": "no_path", "408": "slow_client"}.get(self.status)
        if self.status == "503":
            reason = self._reason_of_503()
        return (self.status, reason) if reason is not None else ("other", "other")

    def _reason_of_503(self) -> str:
        by_second = {"Q": "no_place", "C": "no_replica"}
        if self.state[:1] in "LP":  # a rule of the configuration
            return "no_replica" if self.backend == "default_backend" else "no_chance"
        if self.state[1:2] in by_second:
            return by_second[self.state[1:2]]
        return "replica_late" if self.state.startswith("s") else "replica_lost"

    def line(self) -> str:
        """Return the line for the log of requests, whose fields docs/observing.md lists."""
        kind, cause = REASONS[self.series]
        return json.dumps({
            "time": iso(time.time()),
            "request_id": None if self.id == "-" else self.id,
            "status": int(self.status),
            "ms": _number(self.ms),
            "method": self.method,
            "path": self.path[:MOST_PATH],
            "tenant": None,
            "received": _number(self.received),
            "sent": _number(self.sent),
            "replica": "(ingress)",
            "error": kind,
            "cause": cause,
            "reason": self.series[1],
        }, separators=(",", ":"))  # fmt: skip


class RefusalLog:
    """The pipe, and the thread that counts what comes through it and writes it to the log, if there is one."""

    def __init__(self, folder: Path, log: str | None) -> None:
        os.mkfifo(folder / REFUSALS, 0o600)
        # Opened for both, it never ends, though the ingress may be started again.
        self._pipe = os.open(folder / REFUSALS, os.O_RDWR)
        with suppress(OSError, AttributeError):  # where the system allows it, or has it: Linux
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_NBYTES)
        self._path = folder / COUNTS
        self._log = None if log is None else LogSink(log)
        self._counts = dict.fromkeys(REASONS, 0)
        threading.Thread(target=self._run, name="refusals", daemon=True).start()

    def _run(self) -> None:
        rest, changed, due = "", True, 0.0
        while True:
            if select.select([self._pipe], [], [], WRITE_S)[0]:
                time.sleep(GROUP_S)
                *lines, rest = (rest + os.read(self._pipe, CHUNK_NBYTES).decode("utf-8", "replace")).split("\n")
                changed |= sum(map(self._take, lines)) > 0
            if changed and time.monotonic() >= due:
                with suppress(OSError):  # a full disk; the next time may fare better
                    write_refusals(self._counts, self._path)
                    changed, due = False, time.monotonic() + WRITE_S
            if self._log is not None and self._log.waiting:
                self._log.flush()

    def _take(self, line: str) -> bool:
        if (refusal := Refusal.parse(line)) is None:
            return False
        self._counts[refusal.series] += 1
        if self._log is not None:
            self._log.put(refusal.line())
        return True


class RefusalPipe:
    """The writing end, for what refuses in Ray's proxy; a line that finds no room is dropped."""

    def __init__(self, path: str) -> None:
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def put(self, refusal: Refusal) -> None:
        with suppress(BlockingIOError):
            os.write(self._pipe, f"{REFUSED} {' '.join(astuple(refusal))}\n".encode()[:ATOMIC_NBYTES])


def counts_of(folder: Path) -> Mapping[str, str]:
    """Return the variable by which the replicas find the counts."""
    return {SETTING: str(folder / COUNTS)}


def _number(text: str) -> int:
    return max(0, int(text)) if text.lstrip("-+").isdigit() else 0
