"""What this machine and this store can do, what is wrong, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from serving.port import check_port
from serving.service import native_bfloat16
from store.errors import OneTrunkError, StoreNotFoundError
from store.store import Store

LIBRARIES = ("onetrunk", "torch", "timm", "peft", "safetensors", "ray", "scikit-learn", "sqlalchemy")


@dataclass(frozen=True)
class Check:
    """One thing looked at; `remedy` is empty where it is as it should be."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def examine(store: str, *, catalogue: str | None, port: int) -> list[Check]:
    """Look at libraries, devices, the store and the port; damage is found, not raised."""
    return [*_libraries(), *_devices(), *_store(store, catalogue), _port(port)]


def _libraries() -> Iterator[Check]:
    yield Check("python", True, platform.python_version())
    for name in LIBRARIES:
        try:
            yield Check(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, False, "not installed", "pip install onetrunk")


def _devices() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", True, f"{cores} cores, torch uses {torch.get_num_threads()} threads")
    yield Check("bfloat16 on the cpu", True, "native" if native_bfloat16("cpu") else "emulated; float32 is the default")
    yield Check("cuda", True, torch.cuda.get_device_name() if torch.cuda.is_available() else "none")


def _store(root: str, catalogue: str | None) -> Iterator[Check]:
    try:
        with Store.open(root, catalogue=catalogue) as opened:
            access = "read-only" if opened.read_only else "writable"
            tasks = len({version.task for version in opened.versions()})
            yield Check(
                "store", True, f"{Path(root).resolve()}: {access}, {tasks} tasks, {len(opened.backbones())} backbones"
            )
            damaged = opened.verify()
            for finding in damaged:
                yield Check("digests", False, str(finding), "publish or import that version again")
            if not damaged:
                yield Check("digests", True, "every one is right")
    except StoreNotFoundError as error:
        yield Check("store", True, str(error))
    except OneTrunkError as error:
        yield Check("store", False, str(error), "restore it from a copy")


def _port(port: int) -> Check:
    try:
        check_port("127.0.0.1", port)
    except OneTrunkError as error:
        return Check(f"port {port}", False, str(error), "serve with another --port")
    return Check(f"port {port}", True, "free")
