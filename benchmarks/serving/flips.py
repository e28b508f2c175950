"""Moves of an alias under load: does any request fail, or get an answer of a version that it may not get?

--clients clients ask a real server on the packaged backbone for one alias, closed loop, while it is moved --flips
times: set to another version, rolled back, or split among two. In between, a version is published and removed, and
garbage is collected with no grace. Each version has class names of its own, so an answer that mixes two versions
shows. A request may get a version that the alias named, or one that its split named, at any time from a second before
it was sent until it was answered. How late a move is seen is the time from its commit to the last request that was
sent after it and still got an older version, over all replicas. At the end the alias is split, and --canary requests
say which share the candidate got. Prints the figures; JSON in benchmarks/results/flips.json.

    python -m benchmarks.serving.flips
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.rivals.tenants import CLASSES, TenantServer, tenant_server
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser, settings_of
from benchmarks.support.tasks import lora_files
from store.adapters.checkpoint import LABELS, parse_checkpoint
from store.errors import ConflictError
from store.maintenance.garbage import collect_garbage
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.publish import PublishOptions
from store.registry.splits import split_alias
from store.registry.store import Store
from store.weights.backbones import Backbone, load_backbone

TENANT, TASK, ALIAS = "ann", "ann/flips", "prod"
VERSIONS, DEPTH = 4, 6
STALE_S = 1.0
CANARY, PERCENT, POINTS = 2, 10.0, 2.0
"""The candidate of the last split, its share, and how far from it the measured one may be."""


@dataclass(frozen=True)
class Answer:
    """When a request was sent and answered, its status, its version, and the version that its label belongs to."""

    sent: float
    answered: float
    status: int
    version: int
    of_label: int


@dataclass(frozen=True)
class Move:
    """From when on the alias may name these versions, and when its move was committed."""

    begun: float
    committed: float
    versions: frozenset[int]


@dataclass
class Moves:
    """Moves the alias, and notes when; `counts` is what else was done meanwhile."""

    server: TenantServer
    backbone: Backbone
    every_s: float
    made: list[Move] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, flips: int) -> None:
        with Store.open(self.server.store) as store:
            for number in range(flips):
                time.sleep(self.every_s)
                self.move(store, number)
                if number % 10 == 5:
                    self.replace_a_version(store, number)

    def move(self, store: Store, number: int) -> None:
        begun, kind = time.monotonic(), ("rollback" if number % 5 == 4 else "split" if number % 5 == 2 else "set")
        if kind == "rollback":
            versions = {store.rollback(TASK, ALIAS).number}
        elif kind == "split":
            stable = store.aliases(TASK)[ALIAS]
            versions = {stable, 1 + stable % VERSIONS}
            split_alias(store, TASK, ALIAS, {stable: 60, 1 + stable % VERSIONS: 40})
        else:
            versions = {1 + (store.aliases(TASK)[ALIAS] + number % 3) % VERSIONS}
            store.set_alias(TASK, ALIAS, *versions)
        self.made.append(Move(begun, time.monotonic(), frozenset(versions)))
        self.counts[kind] += 1

    def replace_a_version(self, store: Store, number: int) -> None:
        """Publish a version that nothing names, remove the one before it, and collect what is free."""
        made = publish_version(store, self.backbone, VERSIONS + number)
        store.set_alias(TASK, "latest", 1)
        try:
            store.remove(f"{TASK}:{made}")
            self.counts["removed"] += 1
        except ConflictError:  # a replica holds its lease
            self.counts["held"] += 1
        collect_garbage(store, grace_s=0)
        self.counts["collections"] += 1


def main() -> None:
    options = parse()
    backbone = load_backbone(DEFAULT_BACKBONE)
    serve = () if options.plain else ("--replicas", str(options.replicas))
    with (
        tempfile.TemporaryDirectory() as folder,
        tenant_server(Path(folder), (TENANT,), tasks=1, plain=options.plain, options=serve) as server,
    ):
        with Store.open(server.store) as store:
            for seed in range(VERSIONS):
                publish_version(store, backbone, seed)
            store.set_alias(TASK, ALIAS, 1)
        start = Move(0.0, time.monotonic(), frozenset({1}))
        moves = Moves(server, backbone, options.seconds / options.flips, [start])
        answers = load(server, moves, options)
        canary = ask_for_a_canary(server, options)
    report(answers, canary, moves, options)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="flips.json")
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--requests", type=int, default=10_000, help="at least; the load goes on until they are sent")
    parser.add_argument("--canary", type=int, default=10_000, help="requests for the split alias at the end, at least")
    parser.add_argument("--seconds", type=float, default=60.0, help="over which the moves are spread")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="the API on uvicorn alone, without Ray")
    parser.add_argument(
        "--quick", action="store_true", help="on uvicorn alone, ten moves in five seconds, 100 for the canary"
    )
    options = parser.parse_args()
    if options.quick:
        options.plain, options.flips, options.requests, options.seconds, options.canary = True, 10, 100, 5.0, 100
    return options


def publish_version(store: Store, backbone: Backbone, seed: int) -> int:
    """Publish a version whose class names say its number, which is known: nobody else publishes."""
    number = 1 + max((row.version for row in store.list_versions(TASK, removed=True)), default=0) if seed else 1
    files = lora_files(backbone, rank=4, depth=DEPTH, classes=CLASSES, seed=seed)
    files[LABELS] = "".join(f"v{number} class {index}\n" for index in range(CLASSES)).encode()
    options = PublishOptions(backbone=backbone.record.name, depth=DEPTH)
    return store.publish_checkpoint(TASK, parse_checkpoint(files), where=TASK, options=options).number


def load(server: TenantServer, moves: Moves, options: argparse.Namespace) -> list[Answer]:
    """Ask until all moves are made and enough requests are sent, and a second more for the last move."""
    with asking(server, options.clients) as answers:
        moves.run(options.flips)
        time.sleep(2 * STALE_S)
        while len(answers) < options.requests:
            time.sleep(0.1)
    return answers


def ask_for_a_canary(server: TenantServer, options: argparse.Namespace) -> list[Answer]:
    """Split the alias, wait until every replica knows, and ask without a key: each request's id decides."""
    with Store.open(server.store) as store:
        store.set_alias(TASK, ALIAS, 1)
        split_alias(store, TASK, ALIAS, {1: 100 - PERCENT, CANARY: PERCENT})
    time.sleep(2 * STALE_S)
    with asking(server, options.clients) as answers:
        while len(answers) < options.canary:
            time.sleep(0.1)
    return answers


@contextmanager
def asking(server: TenantServer, clients: int) -> Iterator[list[Answer]]:
    """Ask from so many threads until the end of the block; the list has what each request got."""
    answers: list[Answer] = []
    over = threading.Event()
    threads = [threading.Thread(target=ask, args=(server, answers, over)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def ask(server: TenantServer, answers: list[Answer], over: threading.Event) -> None:
    headers = {"Authorization": f"Bearer {server.secrets[TENANT]}"}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        while not over.is_set():
            sent = time.monotonic()
            try:
                connection.request("POST", f"/v1/predict/{TASK}@{ALIAS}", server.image, headers)
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                status, body = 0, b""
            version, of_label = versions_of(body) if status == 200 else (0, 0)
            answers.append(Answer(sent, time.monotonic(), status, version, of_label))


def versions_of(body: bytes) -> tuple[int, int]:
    answer = json.loads(body)
    return answer["version"], int(answer["top"][0]["label"].split()[0][1:])


def is_right(answer: Answer, moves: list[Move]) -> bool:
    """Say whether the alias named the answer's version at some time that counts for it, and its label is its own."""
    ends = [*(move.committed for move in moves[1:]), float("inf")]
    return answer.version == answer.of_label and any(
        answer.version in move.versions and move.begun <= answer.answered and end >= answer.sent - STALE_S
        for move, end in zip(moves, ends, strict=True)
    )


def delays(answers: list[Answer], moves: list[Move]) -> list[float]:
    """Return for each move how long after its commit a request was sent that still got a version of before."""
    found = []
    for before, move in itertools.pairwise(moves):
        late = [
            answer.sent - move.committed
            for answer in answers
            if answer.sent > move.committed and answer.version in before.versions - move.versions
            and answer.sent < move.committed + 10 * STALE_S
            and not any(answer.version in later.versions for later in moves if later.begun > move.begun
                        and later.begun <= answer.answered)
        ]  # fmt: skip
        found.append(max(late, default=0.0))
    return found


def report(answers: list[Answer], canary: list[Answer], moves: Moves, options: argparse.Namespace) -> None:
    failed = [answer for answer in (*answers, *canary) if answer.status != 200]
    share = 100 * sum(answer.version == CANARY for answer in canary) / len(canary)
    wrong = [answer for answer in answers if answer.status == 200 and not is_right(answer, moves.made)]
    seen = delays(answers, moves.made)
    statuses = dict(Counter(answer.status for answer in answers))
    seconds = max(answer.answered for answer in answers) - min(answer.sent for answer in answers)
    print(f"{len(answers):,} requests in {seconds:.0f} s, statuses {statuses}; {dict(moves.counts)}")
    print(f"a canary of {PERCENT:g}% answered {share:.2f}% of {len(canary):,} requests")
    print(f"a move is seen after {1000 * statistics.median(seen):.0f} ms at the median, {1000 * max(seen):.0f} at most")
    goals = [
        Goal("requests", len(answers), options.requests),
        Goal("moves of the alias", len(moves.made) - 1, options.flips),
        Goal("requests that failed", len(failed), 0, most=True),
        Goal("answers of a wrong version", len(wrong), 0, most=True),
        Goal("seconds until every replica answers by the new version", max(seen), STALE_S, most=True),
        Goal("requests for the canary's split", len(canary), options.canary),
        Goal("points from its share", abs(share - PERCENT), POINTS, most=True),
    ]
    figures = {
        "statuses": {str(status): count for status, count in statuses.items()}, "moves": dict(moves.counts),
        "canary_percent": share,
        "rate": len(answers) / seconds, "seen_after_s": {"median": statistics.median(seen), "max": max(seen)},
        "by_version": {str(version): count for version, count in Counter(a.version for a in answers).items()},
    }  # fmt: skip
    conclude(options.out, {**machine(), **settings_of(options), **figures}, goals)


if __name__ == "__main__":
    main()
