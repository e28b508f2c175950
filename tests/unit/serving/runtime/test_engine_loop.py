from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
import torch
from support.oracle import make_backbone
from torch import Tensor

from serving.engine.engine import Engine
from serving.engine.row_plan import rows_by_block
from serving.prediction import Prediction
from serving.runtime import call_watch
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.scheduling.scheduler import Scheduler
from store.errors import DeadlineError, OverloadedError
from store.weights.forms import Delta, Forms, TaskWeights

DIM = 48


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    return Engine(make_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def loop(engine: Engine) -> Iterator[EngineLoop]:
    loop = EngineLoop(engine, Scheduler(max_waiting=8))
    yield loop
    loop.close()


def weights(depth: int, *, first: int | None = None, seed: int = 0) -> TaskWeights:
    """A task of this depth whose qkv is adapted in the blocks from `first` on; without `first`, it has no adapter."""
    draw = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / 10

    adapted = range(depth, depth) if first is None else range(first - 1, depth)
    deltas = {f"blocks.{block}.attn.qkv": Delta(some(1, 2, DIM), some(1, 3 * DIM, 2)) for block in adapted}
    return TaskWeights(depth, Forms(deltas), some(3, DIM), some(3), ("a", "b", "c"))


def image(seed: int = 0) -> Tensor:
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(seed))


@dataclass
class Requests:
    """Requests, the order in which their predictions were made, and those that released their tasks."""

    loop: EngineLoop
    order: list[str] = field(default_factory=list)
    released: set[str] = field(default_factory=set)

    def submit(
        self, *tasks: tuple[str, TaskWeights], deadline: float | None = None, then: Callable[[], object] = lambda: None
    ) -> PredictionRequest:
        def note(name: str) -> Callable[[Future[Prediction]], None]:
            def note_unless_failed(future: Future[Prediction]) -> None:
                if not future.cancelled() and future.exception() is None:
                    self.order.append(name)
                    then()

            return note_unless_failed

        name = " ".join(name for name, _ in tasks)
        pending = tuple(PendingPrediction(name, 1, task) for name, task in tasks)
        for prediction in pending:
            prediction.future.add_done_callback(note(prediction.task))
        request = PredictionRequest(image(), pending, deadline, lambda: self.released.add(name))
        self.loop.submit(request)
        return request

    def hold(self, *tasks: tuple[str, TaskWeights]) -> threading.Event:
        """Submit, and return once the engine's thread waits at the first prediction until the event is set."""
        reached, go_on = threading.Event(), threading.Event()
        self.submit(*tasks, then=lambda: (reached.set(), go_on.wait(30)))
        assert reached.wait(30)
        return go_on


def result(request: PredictionRequest, index: int = 0) -> Tensor:
    return request.pending[index].future.result(30).tensor


def test_a_shallow_request_is_answered_between_two_blocks_of_a_deep_one(loop: EngineLoop) -> None:
    requests = Requests(loop)
    go_on = requests.hold(("first", weights(1)), ("deep", weights(4)))
    shallow = requests.submit(("shallow", weights(1)))
    go_on.set()
    result(shallow)
    loop.close()
    assert requests.order == ["first", "shallow", "deep"]


def test_rows_that_wait_together_get_what_each_gets_alone(loop: EngineLoop, engine: Engine) -> None:
    requests, tasks = Requests(loop), [weights(1 + seed % 4, first=1, seed=seed) for seed in range(6)]
    go_on = requests.hold(("first", weights(1)))
    waiting = [requests.submit((str(seed), task)) for seed, task in enumerate(tasks)]
    go_on.set()
    for task, request in zip(tasks, waiting, strict=True):
        (alone,) = engine.forward(image()[None], [task])
        torch.testing.assert_close(result(request), alone, atol=1e-5, rtol=0)


def test_a_request_that_is_cancelled_while_it_waits_releases_its_tasks_at_once_and_is_never_run(
    loop: EngineLoop,
) -> None:
    requests = Requests(loop)
    go_on = requests.hold(("first", weights(1)))
    gone, there = requests.submit(("gone", weights(2))), requests.submit(("there", weights(4)))
    assert gone.pending[0].future.cancel()
    assert requests.released == {"gone"}
    go_on.set()
    result(there)
    loop.close()
    assert requests.order == ["first", "there"]


def test_a_request_that_is_cancelled_while_it_runs_is_not_answered_and_releases_its_tasks(loop: EngineLoop) -> None:
    requests = Requests(loop)
    reached, go_on = threading.Event(), threading.Event()
    request = requests.submit(("first", weights(1)), ("deep", weights(4)), then=lambda: (reached.set(), go_on.wait(30)))
    assert reached.wait(30)
    assert request.pending[1].future.cancel()
    go_on.set()
    result(requests.submit(("next", weights(1))))
    loop.close()
    assert requests.order == ["first", "next"]
    assert requests.released == {"first deep", "next"}


def test_a_request_that_waited_past_its_deadline_gets_the_error_and_releases_its_tasks(loop: EngineLoop) -> None:
    requests = Requests(loop)
    go_on = requests.hold(("first", weights(1)))
    late = requests.submit(("late", weights(2)), deadline=time.monotonic() + 0.01)
    threading.Event().wait(0.05)
    go_on.set()
    with pytest.raises(DeadlineError, match="after its deadline"):
        result(late)
    result(requests.submit(("next", weights(1))))
    loop.close()
    assert requests.order == ["first", "next"]
    assert "late" in requests.released


def test_a_request_over_a_full_queue_gets_the_error_and_the_others_their_answers(loop: EngineLoop) -> None:
    requests = Requests(loop)
    go_on = requests.hold(("first", weights(1)))
    waiting = [requests.submit((str(index), weights(2))) for index in range(9)]
    with pytest.raises(OverloadedError, match="at most 8 may"):
        result(waiting[-1])
    go_on.set()
    for request in waiting[:-1]:
        result(request)


def test_a_batch_that_fails_tells_all_that_wait_for_it_and_the_next_one_runs(loop: EngineLoop) -> None:
    broken = PredictionRequest(torch.zeros(3, 7, 7), (PendingPrediction("broken", 1, weights(2)),))
    loop.submit(broken)
    with pytest.raises(Exception, match=r"7|shape|size|height"):
        result(broken)
    assert result(Requests(loop).submit(("whole", weights(2)))).shape == (3,)


def test_closing_answers_what_waits_and_refuses_what_comes_later(loop: EngineLoop) -> None:
    requests = Requests(loop)
    go_on = requests.hold(("first", weights(1)))
    waiting = requests.submit(("waiting", weights(4)))
    closing = threading.Thread(target=loop.close)
    closing.start()
    while not loop.closing:
        pass
    go_on.set()
    closing.join(30)
    with pytest.raises(RuntimeError, match="the engine's thread has stopped"):
        loop.check()
    assert result(waiting).shape == (3,)
    with pytest.raises(OverloadedError, match="stopping"):
        result(requests.submit(("late", weights(1))))


def test_a_thread_that_is_in_one_call_for_too_long_is_found_stuck(loop: EngineLoop, monkeypatch) -> None:
    monkeypatch.setattr(call_watch, "UNKNOWN_S", 0.01)
    requests = Requests(loop)
    go_on = requests.hold(("first", weights(1)))
    loop.check()  # it waits for a client that takes its answer, outside of the engine
    go_on.set()
    watch = call_watch.CallWatch()
    with watch.call(None):
        threading.Event().wait(0.02)
        assert watch.stuck_s >= 0.02
    assert watch.stuck_s == 0
    with watch.call(1e-3):
        threading.Event().wait(0.02)
        assert watch.stuck_s == 0


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_several_blocks_in_one_call_give_the_answers_of_block_after_block(engine: Engine, count: int) -> None:
    tasks = [weights(depth, first=1 + depth // 2, seed=depth) for depth in (1, 2, 2, 4)]
    run, slow = (engine.begin(image()[None], tasks, [0] * len(tasks)) for _ in range(2))
    expected = {}
    while not slow.done:
        if finished := slow.run_blocks(1):
            expected |= dict(zip(finished.rows, finished.logits, strict=True))
    found, calls = {}, 0
    while not run.done:
        calls += 1
        if finished := run.run_blocks(count):
            found |= dict(zip(finished.rows, finished.logits, strict=True))
    assert run.depth == 4
    assert calls >= 4 / count
    assert found.keys() == expected.keys()
    for row, logits in expected.items():
        torch.testing.assert_close(found[row], logits, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("tasks", "rows"),
    [
        ([weights(4, first=1)], (1, 1, 1, 1)),
        ([weights(4, first=1), weights(2, first=1, seed=1)], (2, 2, 1, 1)),
        ([weights(4, first=3), weights(4, first=3, seed=1)], (1, 1, 2, 2)),
        ([weights(3), weights(4)], (1, 1, 1, 1)),
        ([weights(4, first=4), weights(3, first=2, seed=1), weights(2)], (1, 2, 2, 1)),
    ],
)
def test_the_rows_that_a_request_is_expected_to_make_are_those_that_its_run_makes(engine, tasks, rows):
    assert rows_by_block(tasks, [0] * len(tasks)) == rows
    run = engine.begin(image()[None], tasks, [0] * len(tasks))
    for depth in range(len(rows)):
        assert run.remaining_blocks == sum(rows[depth:])
        run.run_blocks(1)
    assert run.done
