"""Jobs for a pool of processes: they report, end, fail or end their process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from store.errors import DataError

Report = Callable[[Mapping[str, object]], None]


def make(settings: Mapping[str, Any]) -> Callable[[Mapping[str, Any], Report], Mapping[str, object]]:
    def work(payload: Mapping[str, Any], report: Report) -> Mapping[str, object]:
        for step in range(payload["steps"]):
            report({"step": step})
        if payload.get("end"):
            os._exit(3)
        if payload.get("wrong") == "data":
            error = DataError("no  data\nhere")
            error.add_note("a note")
            raise error
        if payload.get("wrong"):
            raise KeyError("x")
        return {"sum": settings["base"] + payload["steps"], "process": os.getpid()}

    return work
