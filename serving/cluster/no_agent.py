"""Stand in for an agent of Ray until Ray's raylet ends; it runs without the rest of the project."""

from __future__ import annotations

import os
import time

PERIOD_S = 1.0
INIT = 1  # adopts a process whose parent ended before it began


def main() -> None:
    parent = os.getppid()
    while os.getppid() == parent != INIT:
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
