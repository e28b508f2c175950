"""Which of the kernel's libraries this process runs: by the setting, what the CPU has, and what was built."""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass
from pathlib import Path

from serving.kernel.variants import BUILD_RECORD, LIBRARIES, VARIANTS
from store.errors import InvalidSettingError

SETTING = "ONETRUNK_KERNEL"
SETTINGS = ("auto", "off", *VARIANTS)
KERNEL_ABI = 3  # what `onetrunk_kernel_abi()` in native/kernel.cpp returns: raise both together
CPU_INFO = Path("/proc/cpuinfo")  # what the system lets programs use, so that no library is loaded to find out

TILES_REFUSED = "the system does not permit AMX tiles to this process"
NAMED = 3  # missing features, in a message
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18  # Linux, x86_64


@dataclass(frozen=True)
class KernelChoice:
    """The library that runs and why; without a name and a library, torch runs instead."""

    name: str | None
    reason: str
    library: Path | None

    def __str__(self) -> str:
        return f"{self.name or 'none, torch runs instead'}: {self.reason}"


def choose_kernel(
    setting: str | None = None, *, cpu_info: Path = CPU_INFO, libraries: Path = LIBRARIES
) -> KernelChoice:
    """Return the best library that this CPU can run; `setting` is that of ONETRUNK_KERNEL where none is given.

    A setting that is unknown raises `InvalidSettingError`, and so does a library by its name that cannot run here.
    """
    setting = os.environ.get(SETTING, "auto") if setting is None else setting
    if setting not in SETTINGS:
        raise InvalidSettingError(f"{SETTING}={setting!r} is not a kernel: use one of {', '.join(SETTINGS)}")
    if setting == "off":
        return _torch(f"off by {SETTING}=off")
    if setting == "auto":
        return _best(cpu_info, libraries)
    if missing := missing_features(setting, cpu_info):
        raise InvalidSettingError(f"{SETTING}={setting!r} cannot run here, {missing}: use auto or off")
    choice = _load(setting, f"asked for by {SETTING}={setting}", libraries)
    if choice.name is None:
        raise InvalidSettingError(f"{SETTING}={setting!r} cannot run here: {choice.reason}")
    return choice


def _best(cpu_info: Path, libraries: Path) -> KernelChoice:
    if not cpu_flags(cpu_info):
        return _torch(f"{cpu_info} lists no features of an x86_64 CPU")
    refused = ""
    for name, variant in VARIANTS.items():
        missing = missing_features(name, cpu_info)
        if not missing:
            return _load(name, f"this CPU {variant.advantage}{refused}", libraries)
        if missing == TILES_REFUSED:
            refused = f"; {missing}"
    titles = " nor ".join(variant.title for variant in VARIANTS.values())
    return _torch(f"this CPU has neither {titles}")


def _torch(reason: str) -> KernelChoice:
    return KernelChoice(None, reason, None)


def _load(name: str, reason: str, libraries: Path) -> KernelChoice:
    """Return the library if it is there and of this version; it is loaded only now that the CPU can run it."""
    library = libraries / f"{name}.so"
    if not library.is_file():
        return _torch(_why_not_built(libraries))
    try:
        loaded = ctypes.CDLL(str(library))
        version = loaded.onetrunk_kernel_abi
    except (OSError, AttributeError) as error:
        return _torch(f"{library.name} cannot be loaded ({error}): reinstall onetrunk")
    version.restype = ctypes.c_int64
    abi = version()
    if abi != KERNEL_ABI:
        return _torch(
            f"{library.name} was built for another version (ABI {abi}, needs {KERNEL_ABI}): reinstall onetrunk"
        )
    return KernelChoice(name, reason, library)


def _why_not_built(libraries: Path) -> str:
    try:
        reason = json.loads((libraries / BUILD_RECORD).read_text("utf-8"))["reason"]
    except (OSError, ValueError, KeyError):
        reason = ""
    return reason or "its library is missing: reinstall onetrunk"


def missing_features(name: str, cpu_info: Path = CPU_INFO) -> str:
    """Return what keeps this library from running, as a clause; empty where it can run."""
    missing = sorted(VARIANTS[name].cpu_flags - cpu_flags(cpu_info))
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        return f"this CPU lacks {', '.join(missing[:NAMED])}{more}"
    if name == "amx" and not tiles_permitted():
        return TILES_REFUSED
    return ""


def cpu_flags(cpu_info: Path = CPU_INFO) -> frozenset[str]:
    """Return the features of the first CPU as Linux on x86_64 names them; none where nothing says so."""
    try:
        with cpu_info.open(encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(flags.partition(":")[2].split())


def tiles_permitted() -> bool:
    """Ask the system for the state that AMX tiles take, once for all threads of this process."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    arguments = (ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    return bool(syscall(*map(ctypes.c_long, arguments)) == 0)
