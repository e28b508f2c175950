"""What this machine and this store can do, what is wrong, and how to repair it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass

from serving.cluster.listeners import listeners_of_server
from serving.kernel.instruction_sets import SETTING, choose_kernel
from serving.port import check_port
from serving.runtime.device import cpu_threads, cuda_name, native_bfloat16
from store.backends.probe import probe
from store.errors import InvalidSettingError, OnetrunkError, StoreNotFoundError
from store.maintenance.verify import verify
from store.registry.store import Store

LIBRARIES = ("onetrunk", "torch", "timm", "peft", "safetensors", "ray", "scikit-learn", "sqlalchemy")
OPTIONAL = {
    "obstore": "a store in a bucket",
    "psycopg": "a catalogue on PostgreSQL",
    "pyarrow": "data in Parquet, or that save_to_disk wrote",
}


@dataclass(frozen=True)
class Check:
    """The result of one check; `remedy` is empty if nothing is wrong."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def diagnose(url: str, *, catalogue: str | None = None, port: int = 8265) -> list[Check]:
    """Check libraries, devices, the store and the port; damage is returned, not raised."""
    return [*_libraries(), *_devices(), *_store(url, catalogue), _port(port), *_listeners(port)]


def _libraries() -> Iterator[Check]:
    yield Check("python", True, platform.python_version())
    for name, remedy in {**dict.fromkeys(LIBRARIES, "pip install onetrunk"), **OPTIONAL}.items():
        try:
            yield Check(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            needed = name in LIBRARIES
            yield Check(name, not needed, "not installed", remedy if needed else f"for {remedy}")


def _devices() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", True, f"{cores} cores, torch uses {cpu_threads()} threads")
    yield Check("bfloat16 on the cpu", True, "native" if native_bfloat16("cpu") else "emulated; float32 is the default")
    yield _kernel()
    yield Check("cuda", True, cuda_name() or "none")


def _kernel() -> Check:
    try:
        return Check("kernel", True, str(choose_kernel()))
    except InvalidSettingError as error:
        return Check("kernel", False, str(error), f"unset {SETTING}")


def _store(url: str, catalogue: str | None) -> Iterator[Check]:
    try:
        with Store.open(url, catalogue=catalogue) as store:
            yield from _contents(store)
            yield from _promises(store)
            yield from _digests(store)
    except StoreNotFoundError as error:
        yield Check("store", True, str(error))
    except OnetrunkError as error:
        yield Check("store", False, str(error), "restore it from a copy")


def _contents(store: Store) -> Iterator[Check]:
    access, tasks = "read-only" if store.read_only else "writable", len(store.tasks())
    yield Check("store", True, f"{store.url}: {access}, {tasks} tasks, {len(store.backbone_names())} backbones")
    what = f"{store.catalogue_kind}, format {store.catalogue_format()}"
    yield Check("catalogue", True, f"{what}: {store.catalogue_location}")
    keys = store.api_keys()
    revoked = sum(key.revoked_at is not None for key in keys)
    yield Check("keys", True, f"{len(keys) - revoked} valid, {revoked} revoked")


def _promises(store: Store) -> Iterator[Check]:
    """Check what a bucket must guarantee; a folder's file system needs no check."""
    if not store.backend.remote or store.read_only:
        return
    problems = probe(store.backend)
    for problem in problems:
        yield Check("bucket", False, str(problem), "use a bucket that honours If-None-Match, or a folder")
    if not problems:
        yield Check("bucket", True, "an object is created only once; objects can be written, read, listed and removed")


def _digests(store: Store) -> Iterator[Check]:
    findings = verify(store)
    for finding in findings:
        yield Check("digests", False, str(finding), "publish or import that version again")
    if not findings:
        yield Check("digests", True, "every one matches")


def _listeners(port: int) -> Iterator[Check]:
    """Say where a server on this port, if it is this user's, listens."""
    for listener in listeners_of_server(port):
        yield Check("listens", True, str(listener))


def _port(port: int) -> Check:
    try:
        check_port("127.0.0.1", port)
    except OnetrunkError as error:
        return Check(f"port {port}", False, str(error), "choose another port with --port")
    return Check(f"port {port}", True, "free")
