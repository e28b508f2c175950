"""Publish each hostile folder with little memory, and print the results.

`python -m support.publish_hostile STORE FOLDER` prints a JSON object a line: case, error, message, peak bytes, seconds.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
import time
from pathlib import Path

from store.errors import OnetrunkError
from store.registry.store import Store
from support.hostile_folders import FOLDERS

ROOM = 512 << 20  # bytes of address space beyond what the imports take


def publish(store: Store, folder: Path) -> dict[str, object]:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of resident memory
    before, started = resident("VmRSS"), time.process_time()
    try:
        store.publish("flowers", folder, backbone="toy/vit", depth=2)
        error, message = "", "published"
    except OnetrunkError as refused:
        error, message = type(refused).__name__, str(refused)
    except BaseException as unforeseen:
        error, message = f"untyped {type(unforeseen).__name__}", str(unforeseen)[:200]
    seconds = time.process_time() - started
    return {"error": error, "message": message, "peak": resident("VmHWM") - before, "seconds": seconds}


def resident(field: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def main(store: Path, folder: Path) -> None:
    pages = int(re.search(r"\d+", Path("/proc/self/statm").read_text()).group())  # type: ignore[union-attr]
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with Store.open(store) as opened:
        for case, attack in FOLDERS.items():
            target = Path(shutil.copytree(folder, folder.with_name("attacked")))
            attack(target)
            sys.stdout.write(json.dumps({"case": case, **publish(opened, target)}) + "\n")
            shutil.rmtree(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
