"""A server with API keys over the tasks of several tenants."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.server_process import memory_of, started
from support.servers import free_port

from benchmarks.serving.rivals.workload import photo
from benchmarks.support.load.plan import post
from benchmarks.support.processes import ROOT, environment
from benchmarks.support.tasks import publish_lora
from serving.benchmark.subjects import even_depths
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.registry.tenant_store import new_key
from store.weights.backbones import encode, load_backbone

CLASSES = 10


@dataclass(frozen=True)
class TenantServer:
    """Where it answers, its process, its store, and each tenant's tasks and secret."""

    port: int
    pid: int
    store: Path
    tasks: dict[str, list[str]]
    secrets: dict[str, str]
    image: bytes

    def requests(self, tenant: str, *, timeout_ms: float | None = None) -> list[bytes]:
        """Return a request for each task of the tenant, with a deadline if given."""
        query = "" if timeout_ms is None else f"?timeout_ms={timeout_ms:g}"
        key = f"Authorization: Bearer {self.secrets[tenant]}"
        return [post(f"/v1/predict/{task}{query}", self.image, key) for task in self.tasks[tenant]]

    def memory_nbytes(self) -> int:
        return memory_of(self.pid)


@contextlib.contextmanager
def tenant_server(
    root: Path, tenants: Sequence[str], *, tasks: int, plain: bool, options: Sequence[str] = ()
) -> Iterator[TenantServer]:
    """Serve so many tasks of each tenant on the packaged backbone, with `onetrunk serve` or on uvicorn alone."""
    backbone = load_backbone(DEFAULT_BACKBONE)
    by_tenant = {tenant: [f"{tenant}/task-{index}" for index in range(tasks)] for tenant in tenants}
    secrets = {}
    with Store.open(root / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for tenant, names in by_tenant.items():
            for seed, (name, depth) in enumerate(zip(names, even_depths(tasks, backbone.record.blocks), strict=True)):
                publish_lora(store, name, backbone, depth=depth, classes=CLASSES, seed=seed)
            key, secrets[tenant] = new_key(tenant, ("read",))
            store.put_key(key)
    port = free_port()
    options = ("--store", str(root / "store"), "--port", str(port), "--keys", "--log", "none", *options)
    serve = ["onetrunk", "serve", *options]
    alone = ["support.plain_server", str(root / "store"), str(port), "--keys", "--dtype", "bfloat16"]
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join((env["PYTHONPATH"], str(ROOT / "tests")))
    with started([sys.executable, "-m", *(alone if plain else serve)], port, env=env) as process:
        image = photo(backbone.record.id.preprocessing.height, 0)
        yield TenantServer(port, process.pid, root / "store", by_tenant, secrets, image)
