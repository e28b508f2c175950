"""The engine on a CUDA device in one run of less than six minutes: is it right, is it repeatable, what does it cost.

Conformance: each method of the table against stock PEFT and timm in float32, without TF32. Then: the captured path
against the torch path on the device; the same bytes again, and with batch invariance in any batch; captures and
compilations over 1,000 tasks; a replay that waits for nothing. Then the figures, in bfloat16, on ViT-B/16 and ViT-L/16:
a mixed batch of 8, 16 and 64 LoRA tasks and one of mean depth 8, over one merged task that timm runs, eagerly, as a
CUDA graph and compiled; PEFT's `adapter_names`; memory. Steps run in this order; each has its own entry in the JSON,
which is written after each. A step that fails is written with its error, and what the time does not allow as skipped.

It needs a build of torch for CUDA with Triton, and timm, peft, blake3 and sqlalchemy as pyproject.toml has them; no
store, no download. Where a machine has no package index, bring these four as wheels, for `pip install --no-index
--no-deps`.
With `--cpu` each step runs tiny, on a CPU, its captures called directly: that shows that the script works and measures
nothing.

    python -m benchmarks.engine.gpu
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import timm
import torch

from benchmarks.engine import gpu_checks, gpu_figures
from benchmarks.engine.gpu_setting import Setting, setting_of
from benchmarks.support.options import make_parser

Step = Callable[[Setting], Any]

STEPS: dict[str, tuple[float, Step]] = {
    "conformance": (20, gpu_checks.conformance),
    "captured path / torch path": (10, gpu_checks.against_torch_path),
    "determinism": (10, gpu_checks.determinism),
    "recompiles": (20, gpu_checks.recompiles),
    "waits": (5, gpu_checks.waits),
    "ViT-B/16": (30, lambda setting: gpu_figures.figures(setting, "base")),
    "ViT-L/16": (60, lambda setting: gpu_figures.figures(setting, "large")),
    "ViT-B/16, memory": (10, gpu_figures.memory),
    "ViT-B/16, merged task compiled": (90, gpu_figures.compiled),
}
"""By name: the seconds that must be left for a step to begin, and the step."""


class Report:
    """The JSON, written again after each step, so that a run that is cut off leaves what it had."""

    def __init__(self, out: Path, header: dict[str, Any]) -> None:
        self._out = out
        self._whole: dict[str, Any] = {**header, "steps": {}}
        out.parent.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, entry: dict[str, Any]) -> None:
        self._whole["steps"][name] = entry
        self._out.write_text(json.dumps(self._whole, indent=2) + "\n")
        print(f"{name}: {json.dumps(entry)[:400]}", flush=True)

    @property
    def right(self) -> bool:
        """Whether no step failed and no check found a fault; a skipped step is neither."""
        steps = self._whole["steps"].values()
        return all("error" not in step and step.get("result", {}).get("right", True) for step in steps)


def main() -> None:
    options = parse()
    began = time.monotonic()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("no CUDA device: torch sees none. Try the script with --cpu, or run it where one is")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if not options.cpu:
        signal.signal(signal.SIGALRM, _stop_step)
        signal.alarm(int(options.seconds) + 5)
    setting = setting_of(cpu=options.cpu, deadline=began + options.seconds)
    report = Report(options.out, machine_of(setting))
    for name, (needed, step) in STEPS.items():
        left = setting.deadline - time.monotonic()
        if left < needed and not options.cpu:
            report.add(name, {"skipped": f"{left:.0f} s were left, and it takes {needed:.0f}"})
            continue
        start = time.monotonic()
        try:
            entry = {"result": step(setting)}
        except Exception as error:  # the steps after it are worth their time, and a machine may be lent but once
            traceback.print_exc()
            entry = {"error": f"{type(error).__name__}: {error}"}
        report.add(name, {**entry, "seconds": round(time.monotonic() - start, 2)})
    sys.exit(not report.right)


def _stop_step(*_: object) -> None:
    raise TimeoutError("the time was over within this step")


def machine_of(setting: Setting) -> dict[str, Any]:
    on_gpu = setting.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else "a CPU: a trial of the script, which measures nothing"
    versions = {"torch": torch.__version__, "timm": timm.__version__, "peft": peft.__version__}
    return {"device": device, "cuda": torch.version.cuda, "python": platform.python_version(), **versions}


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="gpu.json")
    parser.add_argument("--cpu", action="store_true", help="try every step, tiny, without a GPU")
    parser.add_argument("--seconds", type=float, default=350, help="when to stop (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
