"""Run HAProxy with the configuration that Ray wrote, after edits that no setting of Ray can make.

Ray starts this file in HAProxy's place (`RAY_SERVE_HAPROXY_BINARY_PATH`), for each new configuration again. It runs
without the rest of the project, in an isolated Python, and becomes HAProxy. Where a line that an edit needs is missing,
as after a change in Ray, it refuses to start: no server runs with half of the edits.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REQUEST_ID = "[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
READS = ("/v1/predict", "/v2/models")

REQUEST_S = 8
"""A head, and a small body after it, have so long to come; a client that waits ten seconds is told why."""

SMALL_NBYTES = 48 << 10
"""A body up to this size is here, in HAProxy's buffer with the head, before a replica has to do with it."""

SMALL = "txn.small"
"""The variable that marks a prediction with a small body."""

LANE = "-other"
"""Ends the name of the second backend of an application, for all but small predictions."""

CLASSES = 16
"""Keys whose parts of all answers differ by less than one of so many wait in the order of arrival."""

FEW, FEW_OF_A_KEY = 32, 4
"""Requests that may wait, of all keys or of one, whatever their deadlines."""

REFUSALS = "refusals"
"""The pipe in the private folder that a line for each request goes into that HAProxy answered by itself."""

REFUSED = "onetrunk-refused"
REFUSAL = f"{REFUSED} %ST %ts %b %Ta %HM %U %B %[var(txn.id)] %HPO"
"""Such a line: it begins with a mark, as HAProxy also writes there which replica is up."""

REFUSALS_FILE = 100
"""The descriptor that HAProxy has of it."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class IngressSettings:
    """What the edits put in: where HAProxy listens, what it serves, and the private folder of this server."""

    binary: str
    folder: str
    address: str
    prefixes: Sequence[str]
    affinity: bool
    held: int
    """Small predictions that a replica has at a time; the others wait here."""
    wait_ms: int
    """How long they may."""

    @classmethod
    def read(cls, path: Path) -> IngressSettings:
        return cls(**json.loads(path.read_text("utf-8")))


def edit(text: str, settings: IngressSettings) -> str:
    """Return the configuration with every edit made once; raise `ValueError` where a line is not as Ray writes it."""
    for pattern, replacement in _edits(settings).items():
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"the configuration of HAProxy has {count} lines like {pattern!r}, not one")
    return _bound_replicas(text, settings)


def _bound_replicas(text: str, settings: IngressSettings) -> str:
    """Bound the small predictions that each replica has; all else goes by a second backend, to the same replicas.

    A replica that reads all that comes is full before its engine is, and a request then waits for the loop that reads
    and refuses. What takes long for its client's sake, or asks whether the server is ready, must not take that room.
    """
    chosen = re.compile(r"^( *)(use_backend (\S+) if is_\S+)$", re.MULTILINE)
    names = [name for _, _, name in chosen.findall(text)]
    text = chosen.sub(rf"\1use_backend \3{LANE} if is_\3 !{{ var({SMALL}) -m found }}\n\1\2", text)
    sections = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    for index, section in enumerate(sections):
        name = section.split("\n", 1)[0].removeprefix("backend ")
        if section.startswith("backend ") and name in names:
            names.remove(name)
            sections[index] = _with_lane(section, name, settings)
    if names:
        raise ValueError(f"the configuration of HAProxy has no backend {names[0]}")
    return "".join(sections)


def _with_lane(section: str, name: str, settings: IngressSettings) -> str:
    """Return a backend with its replicas bounded, and its second one after it."""
    servers = re.findall(r"^ *server (\S+) (\S+) check( backup)?", section, re.MULTILINE)
    if len(servers) != len(re.findall(r"^ *server ", section, re.MULTILINE)):
        raise ValueError(f"the configuration of HAProxy has a server without a check in backend {name}")
    replica = re.compile(r"^( *server \S+ \S+ check)(?! backup)(.*)$", re.MULTILINE)
    bounded = replica.sub(rf"\1\2 maxconn {settings.held}", section)
    bounds = [
        f"timeout queue {settings.wait_ms}ms",
        "http-request return status 503 content-type application/json hdr Retry-After 1 "
        f"file {settings.folder}/503.json if {{ var(txn.many) -m found }} {{ queue gt {FEW} }}",
    ]
    lane = [f"server {server} {address} track {name}/{server}{backup}" for server, address, backup in servers]
    first = "\n    ".join([bounded.rstrip(), *bounds])
    second = "\n    ".join([f"backend {name}{LANE}", "http-reuse always", *lane])
    return f"{first}\n{second}\n"


def _frontend(settings: IngressSettings) -> list[str]:
    """Return what comes in the place of the address on which Ray lets HAProxy listen."""
    folder = settings.folder
    predict = " ".join(f"{prefix.rstrip('/')}{path}" for prefix in settings.prefixes for path in READS)
    small = f"if {{ var({SMALL}) -m found }}"
    lines = [
        rf"    bind {settings.address}",
        # Ray repeats the id in its answer: one that is long or not clean is replaced by a new one.
        rf"    http-request del-header x-request-id if !{{ req.hdr(x-request-id) -m reg ^{REQUEST_ID}$ }}",
        # What is refused here has an id too, in its answer and in the log.
        "    http-request set-header x-request-id %[uuid()] if !{ req.hdr(x-request-id) -m found }",
        "    http-request set-var(txn.id) req.hdr(x-request-id)",
        "    http-after-response set-header x-request-id %[var(txn.id)] if { var(txn.id) -m found } "
        "!{ res.hdr(x-request-id) -m found }",
        # A prediction changes nothing, so one whose replica dies is sent to another; a write is not.
        f"    http-request disable-l7-retry unless {{ path_beg {predict} }}",
        # A larger body goes on at once: the replica refuses it by its key or its length before it comes.
        rf"    http-request wait-for-body time {REQUEST_S}s unless {{ req.hdr_val(content-length) gt {SMALL_NBYTES} }}",
        rf"    http-request set-var({SMALL}) bool(true) if METH_POST {{ path_beg {predict} }} "
        rf"{{ req.hdr_val(content-length) le {SMALL_NBYTES} }}",
        # The body is here: from now on it waits for a replica, which takes that from the time that it has.
        "    http-request del-header x-request-start",
        f"    http-request set-header x-request-start %[date(0,us)] {small}",
        *_fair_waiting(small),
        # HAProxy takes any digit for a version.
        rf"    http-request return status 400 content-type application/json file {folder}/400.json "
        r"unless { req.ver 1.0 1.1 2.0 }",
        # Limits for each client count by the address from which it came.
        "    option forwardfor",
        # Where too much waits Ray itself refuses, and does not say when to ask again.
        r"    http-response set-header Retry-After 1 if { status 503 } !{ res.hdr(Retry-After) -m found }",
    ]
    if settings.affinity:
        lines += [
            r"    http-request set-var(txn.task) path,url_dec,regsub('^.*/v1/predict/',''),regsub('[@:].*$','')",
            r"    http-request set-var(txn.task) urlp(ref),url_dec,regsub('[@:].*$','') if { urlp(ref) -m found }",
        ]
    return lines


def _edits(settings: IngressSettings) -> Mapping[str, str]:
    """Return what each line, given as a pattern, becomes."""
    folder = settings.folder
    served = " ".join(prefix.rstrip("/") or "/" for prefix in settings.prefixes)
    frontend = "\n".join(_frontend(settings)).replace("\\", "\\\\")
    edits = {
        r"^( *stats socket \S+) mode 666 ": r"\1 mode 600 ",
        r"^( *)log \S+ local0 info$": rf"\1log fd@{REFUSALS_FILE} len 2048 format raw local0 info",
        # A request that a replica answered is in the replica's log; a connection without a byte was no request.
        r"^( *)option httplog$": rf'\1option dontlog-normal\n\1option http-ignore-probes\n\1log-format "{REFUSAL}"',
        r"^( *timeout client \d+s)$": rf"\1\n    timeout http-request {REQUEST_S}s",
        r"^( *)errorfile 502 \S+$": (
            rf"\1errorfile 502 {folder}/503.http\n\1errorfile 400 {folder}/400.http\n\1errorfile 408 {folder}/408.http"
        ),
        r"^( *)errorfile 503 \S+$": rf"\1errorfile 503 {folder}/503.http",
        r"^( *)errorfile 504 \S+$": rf"\1errorfile 504 {folder}/503.http",
        # Ray's metrics and statistics listen on every interface: here they are in the private folder.
        r"^( *)bind :\d+$": rf"\1bind unix@{folder}/prometheus.sock mode 600",
        r"^( *)bind \*:\d+$": rf"\1bind unix@{folder}/stats.sock mode 600",
        r"^ *bind 127\.0\.0\.1:\d+$": frontend,
        # No application under a path that is served means that it is starting or stopping, not that it is unknown.
        r"^( *http-request return status 404 .*)$": (
            rf"    http-request return status 503 content-type application/json hdr Retry-After 1 "
            rf"file {folder}/503.json if {{ path_beg {served} }}\n\1"
        ),
    }
    if settings.affinity:
        edits[r"^( *balance hash .*)$"] = r"\1\n    hash-type consistent"
    return edits


def _fair_waiting(small: str) -> Sequence[str]:
    """Return what lets the key go first that had the fewest answers, and marks what has no chance in its time.

    Of those that wait, the class of a key is its part of all answers of the last second. What its address was refused
    counts as answers, so that keys that are made up have no part to get. A request with `timeout_ms` has no chance
    where its key has more requests here than a quarter of what is answered in half of that time, and a few.
    """
    return [
        "    stick-table type binary len 20 size 10k expire 10s store conn_cur,gpc0,gpc0_rate(1s),http_err_rate(1s)",
        f"    http-request track-sc0 req.hdr(authorization),sha1 {small} {{ req.hdr(authorization) -m found }}",
        f"    http-request track-sc0 src,sha1 {small} !{{ req.hdr(authorization) -m found }}",
        f"    http-request track-sc1 src,sha1 {small}",
        f"    http-request track-sc2 str(all),sha1 {small}",
        f"    http-request set-var(txn.refused) sc1_http_err_rate {small}",
        f"    http-request set-var(txn.all) sc2_gpc0_rate,add(1) {small}",
        f"    http-request set-priority-class sc0_gpc0_rate,add(txn.refused),mul({CLASSES}),div(txn.all) {small}",
        "    http-response sc-inc-gpc0(0) if { status 200 }",
        "    http-response sc-inc-gpc0(2) if { status 200 }",
        f"    http-request set-var(txn.time) urlp(timeout_ms),add(0) {small}",
        f"    http-request set-var(txn.room) sc2_gpc0_rate,mul(txn.time),div(8000),add({FEW_OF_A_KEY}) {small} "
        "{ var(txn.time) -m found }",
        f"    http-request set-var(txn.many) bool(true) {small} {{ var(txn.room) -m found }} "
        "{ sc0_conn_cur,sub(txn.room) gt 0 }",
    ]


def main() -> None:
    settings = IngressSettings.read(Path(sys.argv[1]))
    arguments = sys.argv[2:]
    path = Path(arguments[arguments.index("-f") + 1])
    try:
        path.write_text(edit(path.read_text("utf-8"), settings), "utf-8")
    except ValueError as error:
        sys.exit(f"onetrunk: {error}")
    _open_refusals(Path(settings.folder))
    # HAProxy is a child of one of Ray's processes, which may be killed: it must not stay behind.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(settings.binary, [settings.binary, *arguments])


def _open_refusals(folder: Path) -> None:
    """Open the pipe where HAProxy expects it; it writes what finds room and never waits."""
    pipe = os.open(folder / REFUSALS, os.O_RDWR | os.O_NONBLOCK)
    os.dup2(pipe, REFUSALS_FILE, inheritable=True)
    os.close(pipe)


if __name__ == "__main__":
    main()
