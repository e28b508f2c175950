"""The kernel's portable build under sanitisers and with guard pages: what it reads and writes stays in its buffers."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from support.native_builds import native_build, run_sanitized
from support.processes import importing

from serving.kernel.instruction_sets import KERNEL_ABI

LOAD = """
import ctypes, sys
version = ctypes.CDLL(sys.argv[1]).onetrunk_kernel_abi
version.restype = ctypes.c_int64
print(version())
"""

BATCHES = """
import sys
from pathlib import Path
from support.kernel_cases import kernel_engine, random_backbone, random_batch
for seed in range(int(sys.argv[2]), int(sys.argv[3])):
    backbone = random_backbone(seed, 1200)
    engine = kernel_engine(backbone, Path(sys.argv[1]), threads=1 + seed % 3)
    batch = random_batch(backbone, seed, rows=1 + seed % 4, ranks=(0, 1, 17, 33))
    answers = engine.forward(batch.images, batch.tasks, batch.image_of)
    assert all(logits.isfinite().all() for logits in answers), backbone.record.id.arguments
print(f"{seed + 1} batches")
"""

OF_ANOTHER_HEIGHT = """
import sys
from pathlib import Path
from support.kernel_cases import kernel_engine, random_backbone, random_batch
backbone = random_backbone(0, 1200)
engine = kernel_engine(backbone, Path(sys.argv[1]))
batch = random_batch(backbone, 0, rows=2)
engine._model.kernel._model.grid_height += 1  # the last channel ends one row of patches beyond the images
engine.forward(batch.images, batch.tasks, batch.image_of)
"""

BEYOND_ITS_END = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
ctypes.memset(ctypes.create_string_buffer(64), 1, 64 + 4096)
"""


def test_the_sanitised_build_loads_and_is_of_the_version_that_is_called():
    done = run_sanitized(LOAD, str(native_build("sanitized")))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(KERNEL_ABI), "")


@pytest.mark.parametrize("first", [0, 10])
def test_batches_of_every_form_stay_in_their_buffers(first):
    done = run_sanitized(BATCHES, str(native_build("sanitized")), str(first), str(first + 10))
    assert (done.returncode, done.stdout.strip()) == (0, f"{first + 10} batches"), done.stderr[-3000:]


def test_a_batch_that_reads_beyond_its_images_is_found():
    done = run_sanitized(OF_ANOTHER_HEIGHT, str(native_build("sanitized")))
    assert done.returncode == 99, done.stderr[-3000:]
    assert "AddressSanitizer" in done.stderr


@pytest.mark.parametrize("name", ["guards", "guards_best"])
def test_every_buffer_ends_at_a_page_that_nobody_may_touch(name):
    library = native_build(name)
    done = subprocess.run(
        (sys.executable, "-c", BATCHES, str(library), "30", "50"),
        env=importing(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "50 batches"), done.stderr[-3000:]


def test_a_write_beyond_a_buffer_is_found():
    done = run_sanitized(BEYOND_ITS_END, str(native_build("sanitized")))
    assert done.returncode == 99
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("name", ["portable", "guards"])
def test_a_portable_build_runs_on_any_cpu(name):
    version = ctypes.CDLL(str(native_build(name))).onetrunk_kernel_abi
    version.restype = ctypes.c_int64
    assert version() == KERNEL_ABI
