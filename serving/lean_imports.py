"""Import timm without torch's compiler, which takes longer than timm, torchvision and all of `serving` together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
UTILS = f"{COMPILER}.utils"


def import_timm() -> None:
    """Import timm for a process that compiles nothing.

    timm marks functions that are not to be compiled, and torchvision calls one function of the compiler. Where they
    come to need more of it, all of it is imported, as without this.
    """
    if "timm" not in sys.modules and COMPILER not in sys.modules:
        try:
            with _stand_ins():
                import timm  # noqa: F401  # for those who import it next
        except (ImportError, AttributeError):
            return


@contextmanager
def _stand_ins() -> Iterator[None]:
    compiler, utils = ModuleType(COMPILER), ModuleType(UTILS)
    compiler.utils = utils  # type: ignore[attr-defined]
    compiler.disable = _as_it_is  # type: ignore[attr-defined]
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules.update({COMPILER: compiler, UTILS: utils})
    try:
        yield
    finally:
        del sys.modules[COMPILER], sys.modules[UTILS]


def _as_it_is(function: Any = None, *_: object, **__: object) -> Any:
    return function or _as_it_is


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))
