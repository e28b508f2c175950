"""What each process of `benchmarks.registry.writes` runs: it registers versions, one after the other, when told to.

It imports the standard library alone, as the peer's interpreter may have nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def answer(register: Callable[[str], int]) -> None:
    """For each line `{"task", "start", "seconds"}` of the input, register versions and print the result.

    Times are of the clock that all processes of a machine share. An error is counted, and the next one tried.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(register, **json.loads(line))), flush=True)


def run(register: Callable[[str], int], task: str, start: float, seconds: float) -> dict[str, object]:
    versions: list[int] = []
    errors: list[str] = []
    time.sleep(max(0.0, start - time.monotonic()))
    began = time.monotonic()
    while time.monotonic() < start + seconds:
        try:
            versions.append(register(task))
        except Exception as error:  # whatever a peer raises, it is what its user would have seen
            errors.append(f"{type(error).__name__}: {str(error)[:200]}")
    return {"began": began, "ended": time.monotonic(), "versions": versions, "errors": errors}
