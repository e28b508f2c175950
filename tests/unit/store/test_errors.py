"""The tree of errors that the module draws is the one that it defines."""

from __future__ import annotations

import builtins
import inspect
import re

from store import errors

DEFINED = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
NODE = re.compile(r"(?P<indent>[│├└─ ]*)(?P<name>\w+Error)\b *(?:\((?P<builtin>\w+)\))?")


def drawn() -> dict[str, tuple[type, ...]]:
    """Return the bases of every class by its name, read from the picture."""
    bases: dict[str, tuple[type, ...]] = {}
    path: list[str] = []
    for match in filter(None, map(NODE.match, (errors.__doc__ or "").splitlines())):
        path[len(match["indent"]) // 4 :] = [match["name"]]
        parents = [DEFINED[name] for name in path[-2:-1]]
        builtin = [getattr(builtins, match["builtin"])] if match["builtin"] else []
        bases[match["name"]] = (*parents, *builtin) or (Exception,)
    return bases


def test_the_tree_is_drawn_as_it_is() -> None:
    assert list(drawn().items()) == [(name, kind.__bases__) for name, kind in DEFINED.items()]


def test_each_error_says_when_it_is_raised() -> None:
    for kind in DEFINED.values():
        assert kind is errors.OnetrunkError or (kind.__doc__ or "").startswith("Raised ")
