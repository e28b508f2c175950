"""Load torchvision and timm without torch's compiler, a quarter of all that a replica would load, and never call it.

Both only ask it, while they are loaded, to leave a function of theirs alone; and torchvision, in an operation of object
detection, whether it could compile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

COMPILER, QUESTIONS = "torch._dynamo", "torch._dynamo.utils"
F = TypeVar("F")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let two modules that do nothing stand for the compiler until the block ends; who needs it then loads it."""
    if COMPILER in sys.modules:
        yield
        return
    compiler, questions = ModuleType(COMPILER), ModuleType(QUESTIONS)
    compiler.__path__ = []
    compiler.__dict__["disable"] = _disable
    compiler.__dict__["utils"] = questions
    questions.__dict__["is_compile_supported"] = lambda _device: False
    stand_ins = {COMPILER: compiler, QUESTIONS: questions}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _disable(fn: F | None = None, *_: object, **__: object) -> F | Callable[[F], F]:
    """Return the function as it is, as nothing is compiled."""
    return (lambda function: function) if fn is None else fn
