"""Modules of the benchmarks in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which an interpreter finds the benchmarks, whatever folder it starts in."""
    return {**base, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), base.get("PYTHONPATH"))))}


def run_json(module: str, *arguments: str, base: Mapping[str, str] = os.environ) -> Any:
    """Run a module with these arguments and, as the base of its environment, this; return the JSON that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment(base), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)
