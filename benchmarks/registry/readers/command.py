"""Run a command several times and print its seconds and its memory; the arguments are how often, and the command.

A process of its own, as Linux counts to a child's peak what its parent held when it was started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main() -> None:
    runs, command = int(sys.argv[1]), sys.argv[2:]
    seconds, cpu_seconds, resident_kib = [], [], 0
    for _ in range(runs):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(usage.ru_utime + usage.ru_stime)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: run it by hand")
        resident_kib = max(resident_kib, usage.ru_maxrss)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "resident_mb": resident_kib * 1024 / 1e6}))


if __name__ == "__main__":
    main()
