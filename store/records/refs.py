"""The ways to name a version: `task`, `task@alias`, `task:3`, `task@sha256:<64 hex digits>`."""

from __future__ import annotations

import bisect
import difflib
import re
from collections.abc import Iterable, Sized
from dataclasses import dataclass

from store.errors import InvalidNameError

REF = re.compile(
    r"(?P<task>[^:@]+)(:(?P<version>[1-9][0-9]{0,8})|@sha256:(?P<digest>[0-9a-f]{64})|@(?P<alias>[^:@]+))?"
)
NEAR = 200  # names before and after it


@dataclass(frozen=True)
class Ref:
    """At most one of version, digest and alias is set; with none, the default alias is meant."""

    task: str
    version: int | None
    digest: str | None
    alias: str | None

    @classmethod
    def parse(cls, text: str) -> Ref:
        match = REF.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidNameError(
                f"ref {text!r:.120} is not valid: write TASK, TASK@ALIAS, TASK:NUMBER or TASK@sha256:64 hex digits"
            )
        check_name(match["task"], "task")
        if match["alias"] is not None:
            check_name(match["alias"], "alias")
        return cls(match["task"], int(match["version"]) if match["version"] else None, match["digest"], match["alias"])


def suggest(name: str, existing: Iterable[str]) -> str:
    """Name the closest existing name, or the first ten where none is close; `NEAR` names on each side are enough."""
    known = sorted(existing)
    position = bisect.bisect(known, name)
    near = known[max(0, position - NEAR) : position + NEAR]  # to compare with all of many takes seconds
    close = difflib.get_close_matches(name[:300], near, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if not known:
        return "there is none yet"
    more = " and more" if len(known) > NEAR else f" and {len(known) - 10} more" if len(known) > 10 else ""
    return f"there is {', '.join(known[:10])}{more}"


def plural(noun: str, counted: Sized) -> str:
    """Return the noun as it stands before this many."""
    if len(counted) == 1:
        return noun
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def tenant_of(task: str) -> str:
    """Return the part before the '/', "" where there is no '/'."""
    return task.partition("/")[0] if "/" in task else ""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")


BACKBONE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}")


def check_name(name: str, kind: str) -> str:
    """Return the name, or raise `InvalidNameError`."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or ".." in name:
        raise InvalidNameError(
            f"{kind} name {name!r:.80} is not valid: use letters, digits, '.', '_' and '-', "
            "at most 128, with at most one '/' between two such parts"
        )
    return name
