"""A whole attack: a server, a well-behaved client beside it, every case, and the server's memory before and after."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.benchmark.quantiles import quantile
from store.registry.bundle import export_bundle
from store.registry.store import Store
from store.registry.tenant_store import new_key
from store.weights.backbones import encode
from support.hostile.attack import Exchange, run_attacks
from support.hostile.cases import ANSWERED, CUT_OFF, PREDICT, Case, authorized, get, post
from support.hostile.lengths import LINE, MEBIBYTE
from support.hostile.pictures import flat, photo, saved, write
from support.oracle import make_backbone, make_task
from support.processes import importing
from support.server_process import memory_of

STEADY_S, WARM_S = 3.0, 60.0  # memory is steady if it changes by less than a hundredth in so long; the most to wait
SETTLE_S = 20.0  # memory comes back within this
SIDE = 224  # of the model's input: the larger, the more a strip would cost


@dataclass(frozen=True)
class Besieged:
    """A store of two tenants, their keys, and a good bundle of the attacker's."""

    store: Path
    attacker: str
    neighbour: str
    bundle: bytes


@dataclass(frozen=True)
class Siege:
    """What came back to the attackers and to the well-behaved client, and the server's memory in bytes."""

    exchanges: dict[str, list[Exchange]]
    predictions: list[float]
    health: list[float]
    wrong: list[str]
    before_nbytes: int
    most_nbytes: int
    after_nbytes: int

    def p99_s(self) -> float:
        return quantile(self.predictions, 0.99)


def make_store(root: Path) -> Besieged:
    backbone = make_backbone(root / "backbone", img_size=SIDE, patch_size=32)
    with Store.open(root / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for seed, task in enumerate(("mallory/cars", "acme/cars")):
            made = make_task(backbone, root / task, depth=2, classes=3, seed=seed)
            store.publish(task, made.folder, backbone=backbone.record.name, depth=2)
        secrets = {}
        for tenant, scopes in (("mallory", ("admin",)), ("acme", ("read",))):
            key, secrets[tenant] = new_key(tenant, scopes)
            store.put_key(key)
        bundle = io.BytesIO()
        export_bundle(store, ["mallory/cars:1"], bundle, with_backbone=False)
    return Besieged(root / "store", secrets["mallory"], secrets["acme"], bundle.getvalue())


def lay_siege(port: int, pid: int, besieged: Besieged, image: bytes, cases: Sequence[Case]) -> Siege:
    """Run all cases but the floods side by side, then each flood alone, the well-behaved client always beside them."""
    parts = [[case for case in cases if case.copies == 1], *[[case] for case in cases if case.copies > 1]]
    exchanges: dict[str, list[Exchange]] = {}
    most = [0]
    with _neighbour(port, besieged.neighbour, image) as report:
        _warm_up(port, pid, besieged)
        before = memory_of(pid)
        for part in parts:
            exchanges |= asyncio.run(_watched(run_attacks(port, besieged.attacker, part), pid, most))
        after = _settled(pid, before)
    said = report()
    return Siege(exchanges, said["predictions"], said["health"], said["wrong"], before, max(most), after)


def _warm_up(port: int, pid: int, besieged: Besieged) -> None:
    """Let every replica start, and do once what clients ask for: a server in use is what is compared."""
    _steady(pid)
    work = [
        Case("photos", lambda: [post(PREDICT, saved("JPEG"))] * 8, ANSWERED, copies=32),
        Case("progressive photos", lambda: [post(PREDICT, write(photo(), "JPEG", progressive=True))] * 4, ANSWERED,
             copies=16),
        Case("large photos", lambda: [post(PREDICT, flat("L", 4_000, 4_000)())], ANSWERED, copies=8),
        Case(
            "unfinished uploads", lambda: [authorized(LINE, f"Content-Length: {2 << 20}"), MEBIBYTE], CUT_OFF, copies=8
        ),
        Case("lists", lambda: [get("/v1/tasks")] * 4, ANSWERED, copies=16),
    ]  # fmt: skip
    for case in work:
        asyncio.run(run_attacks(port, besieged.attacker, [case]))
    _steady(pid)


def _steady(pid: int) -> None:
    end, before = time.monotonic() + WARM_S, 0
    while abs((now := memory_of(pid)) - before) > now / 100 and time.monotonic() < end:
        before = now
        time.sleep(STEADY_S)


async def _watched(attacks: object, pid: int, most: list[int]) -> dict[str, list[Exchange]]:
    """Run the attacks and note the server's memory meanwhile."""
    task = asyncio.ensure_future(attacks)  # type: ignore[call-overload]
    while not task.done():
        most.append(await asyncio.to_thread(memory_of, pid))
        await asyncio.wait({task}, timeout=0.25)
    return dict(task.result())


@contextlib.contextmanager
def _neighbour(port: int, secret: str, image: bytes) -> Iterator[Callable[[], dict[str, list]]]:
    arguments = {"port": port, "secret": secret, "target": "/v1/predict/acme/cars?logits=true", "image": image.hex()}
    with subprocess.Popen(
        [sys.executable, "-m", "support.hostile.bystander"],
        env=importing(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        said: dict[str, list] = {}
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        try:
            yield lambda: said
            said |= json.loads(process.communicate(timeout=60)[0])
        finally:
            process.kill()


def _settled(pid: int, before: int) -> int:
    """Return the server's memory as soon as it is near what it was, or at the end of the time that it has for that."""
    end = time.monotonic() + SETTLE_S
    while (now := memory_of(pid)) > before * 1.05 and time.monotonic() < end:
        time.sleep(0.5)
    return now
