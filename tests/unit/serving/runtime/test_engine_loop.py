from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from support.oracle import make_backbone
from torch import Tensor

from serving.engine.engine import Engine
from serving.engine.row_plan import rows_by_block
from serving.runtime.engine_loop import EngineLoop, PendingPrediction, PredictionRequest
from serving.scheduling.scheduler import Scheduler
from store.errors import DeadlineError, OverloadedError
from store.weights.forms import Delta, Forms, TaskWeights

DIM = 48


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    return Engine(make_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def runner(engine: Engine) -> Iterator[EngineLoop[Tensor]]:
    runner: EngineLoop[Tensor] = EngineLoop(engine, Scheduler(max_waiting=8))
    yield runner
    runner.close()


def weights(depth: int, *, first: int | None = None, seed: int = 0) -> TaskWeights:
    """A task of this depth whose qkv is adapted in the blocks from `first` on; none where there is no `first`."""
    draw = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / 10

    adapted = range(depth, depth) if first is None else range(first - 1, depth)
    deltas = {f"blocks.{block}.attn.qkv": Delta(some(1, 2, DIM), some(1, 3 * DIM, 2)) for block in adapted}
    return TaskWeights(depth, Forms(deltas), some(3, DIM), some(3), ("a", "b", "c"))


def image(seed: int = 0) -> Tensor:
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(seed))


@dataclass
class Asked:
    """Requests, the order in which their rows were answered, and those that let go of their tasks."""

    runner: EngineLoop[Tensor]
    order: list[str] = field(default_factory=list)
    released: set[str] = field(default_factory=set)

    def ask(
        self, *rows: tuple[str, TaskWeights], deadline: float | None = None, then: Callable[[], object] = lambda: None
    ) -> PredictionRequest[Tensor]:
        def reply(name: str) -> Callable[[Tensor], Tensor]:
            def note(logits: Tensor) -> Tensor:
                self.order.append(name)
                then()
                return logits

            return note

        name = " ".join(name for name, _ in rows)
        request = PredictionRequest(
            image(),
            tuple(PendingPrediction(name, task, reply(name)) for name, task in rows),
            deadline,
            lambda: self.released.add(name),
        )
        self.runner.submit(request)
        return request

    def hold(self, *rows: tuple[str, TaskWeights]) -> threading.Event:
        """Ask, and return once the engine's thread waits with the first answer until the event is set."""
        reached, go_on = threading.Event(), threading.Event()
        self.ask(*rows, then=lambda: (reached.set(), go_on.wait(30)))
        assert reached.wait(30)
        return go_on


def result(request: PredictionRequest[Tensor], row: int = 0) -> Tensor:
    return request.rows[row].answer.result(30)


def test_a_shallow_request_is_answered_between_two_blocks_of_a_deep_one(runner: EngineLoop[Tensor]) -> None:
    asked = Asked(runner)
    go_on = asked.hold(("first", weights(1)), ("deep", weights(4)))
    shallow = asked.ask(("shallow", weights(2)))
    go_on.set()
    result(shallow)
    runner.close()
    assert asked.order == ["first", "shallow", "deep"]


def test_rows_that_wait_together_get_what_each_gets_alone(runner: EngineLoop[Tensor], engine: Engine) -> None:
    asked, tasks = Asked(runner), [weights(1 + seed % 4, first=1, seed=seed) for seed in range(6)]
    go_on = asked.hold(("first", weights(1)))
    requests = [asked.ask((str(seed), task)) for seed, task in enumerate(tasks)]
    go_on.set()
    for task, request in zip(tasks, requests, strict=True):
        (alone,) = engine.forward(image()[None], [task])
        torch.testing.assert_close(result(request), alone, atol=1e-5, rtol=0)


def test_a_request_that_is_cancelled_while_it_waits_lets_go_at_once_and_is_never_run(
    runner: EngineLoop[Tensor],
) -> None:
    asked = Asked(runner)
    go_on = asked.hold(("first", weights(1)))
    gone, there = asked.ask(("gone", weights(2))), asked.ask(("there", weights(4)))
    assert gone.rows[0].answer.cancel()
    assert asked.released == {"gone"}
    go_on.set()
    result(there)
    assert asked.order == ["first", "there"]


def test_a_request_that_is_cancelled_while_it_runs_is_not_answered_and_lets_go(runner: EngineLoop[Tensor]) -> None:
    asked = Asked(runner)
    reached, go_on = threading.Event(), threading.Event()
    request = asked.ask(("first", weights(1)), ("deep", weights(4)), then=lambda: (reached.set(), go_on.wait(30)))
    assert reached.wait(30)
    assert request.rows[1].answer.cancel()
    go_on.set()
    result(asked.ask(("next", weights(1))))
    runner.close()
    assert asked.order == ["first", "next"]
    assert asked.released == {"first deep", "next"}


def test_a_request_that_waited_past_its_deadline_gets_the_error_and_lets_go(runner: EngineLoop[Tensor]) -> None:
    asked = Asked(runner)
    go_on = asked.hold(("first", weights(1)))
    late = asked.ask(("late", weights(2)), deadline=time.monotonic() + 0.01)
    threading.Event().wait(0.05)
    go_on.set()
    with pytest.raises(DeadlineError, match="after its deadline"):
        result(late)
    result(asked.ask(("next", weights(1))))
    assert asked.order == ["first", "next"]
    assert "late" in asked.released


def test_a_request_over_a_full_queue_gets_the_error_and_the_others_their_answers(runner: EngineLoop[Tensor]) -> None:
    asked = Asked(runner)
    go_on = asked.hold(("first", weights(1)))
    requests = [asked.ask((str(index), weights(2))) for index in range(9)]
    with pytest.raises(OverloadedError, match="at most 8 may"):
        result(requests[-1])
    go_on.set()
    for request in requests[:-1]:
        result(request)


def test_a_batch_that_fails_tells_all_that_wait_for_it_and_the_next_one_runs(runner: EngineLoop[Tensor]) -> None:
    broken = PredictionRequest(torch.zeros(3, 7, 7), (PendingPrediction("broken", weights(2), lambda logits: logits),))
    runner.submit(broken)
    with pytest.raises(Exception, match=r"7|shape|size|height"):
        result(broken)
    assert result(Asked(runner).ask(("whole", weights(2)))).shape == (3,)


def test_closing_answers_what_waits_and_refuses_what_comes_later(runner: EngineLoop[Tensor]) -> None:
    asked = Asked(runner)
    go_on = asked.hold(("first", weights(1)))
    waiting = asked.ask(("waiting", weights(4)))
    closing = threading.Thread(target=runner.close)
    closing.start()
    while not runner.closing:
        pass
    go_on.set()
    closing.join(30)
    assert not runner.is_alive
    assert result(waiting).shape == (3,)
    with pytest.raises(OverloadedError, match="stopping"):
        result(asked.ask(("late", weights(1))))


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
def test_the_rows_that_a_request_is_taken_to_make_are_those_that_its_walk_makes(engine, tasks, rows):
    assert rows_by_block(tasks, [0] * len(tasks)) == rows
    walk = engine.begin(image()[None], tasks, [0] * len(tasks))
    for depth in range(len(rows)):
        assert walk.remaining_blocks == sum(rows[depth:])
        walk.advance()
    assert walk.done
