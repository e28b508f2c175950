"""The kernel's threads: none stay behind, none are waited for that are not there, and they share no state."""

from __future__ import annotations

import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.kernel_cases import best_library, kernel_engine, random_backbone, random_batch
from support.processes import in_a_child

from serving.engine.engine import Engine

THREADS = Path("/proc/self/task")
FORK_S = 20


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(3, 1500)


@pytest.fixture(scope="module")
def batch(backbone):
    return random_batch(backbone, 3, rows=6)


@pytest.fixture
def engine(backbone) -> Engine:
    return kernel_engine(backbone, best_library(), threads=3)


def count() -> int:
    """Count the kernel's own threads; torch and the tests before have others, which come and go."""
    names = []
    for thread in THREADS.iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            names.append((thread / "comm").read_text())
    return names.count("onetrunk core\n")


def test_engines_leave_no_threads_behind(backbone, batch):
    gc.collect()
    before = count()
    for threads in (1, 2, 8):
        engine = kernel_engine(backbone, best_library(), threads=threads)
        assert count() == before + threads - 1
        engine.forward(batch.images, batch.tasks, batch.image_of)
        del engine
        gc.collect()
        assert count() == before


def test_a_fork_runs_without_the_threads_of_its_parent(engine, batch):
    expected = engine.forward(batch.images, batch.tasks, batch.image_of)

    def in_child() -> None:
        signal.alarm(FORK_S)  # a hang ends the child
        answers = engine.forward(batch.images, batch.tasks, batch.image_of)
        assert all(torch.equal(one, other) for one, other in zip(answers, expected, strict=True))
        engine._model = None  # its threads are not there to be waited for
        gc.collect()

    for _ in range(3):
        assert in_a_child(in_child) == 0
    again = engine.forward(batch.images, batch.tasks, batch.image_of)
    assert all(torch.equal(one, other) for one, other in zip(again, expected, strict=True))


def test_a_fork_made_while_another_thread_runs_a_batch_can_run_one(engine, batch):
    engine.forward(batch.images, batch.tasks, batch.image_of)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            engine.forward(batch.images, batch.tasks, batch.image_of)

    def in_child() -> None:
        signal.alarm(FORK_S)
        engine.forward(batch.images, batch.tasks, batch.image_of)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert [in_a_child(in_child) for _ in range(3)] == [0] * 3
    finally:
        stop.set()
        thread.join()


def test_threads_that_run_and_pack_at_a_time_get_the_bytes_of_each_alone(engine, batch):
    expected = [engine.forward(*batch.row(index))[0] for index in range(len(batch.tasks))]

    def run(index: int) -> bool:
        image, (task,) = batch.row(index % len(expected))
        (answer,) = engine.forward(image, [engine.prepare(task)])
        return torch.equal(answer, expected[index % len(expected)])

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(run, range(60)))


def test_the_engine_takes_no_more_threads_than_torch_has(backbone):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        engine = Engine(backbone, dtype=torch.bfloat16)
        if engine.kernel.library is None:
            pytest.skip(f"no kernel runs here ({engine.kernel.reason})")
        assert engine._model.kernel._threads == 2
    finally:
        torch.set_num_threads(before)
