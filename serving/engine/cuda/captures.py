"""Steps on static buffers, each captured once for each shape in which it runs, and replayed from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

Step = Callable[[], object]
Capture = Callable[[Step], Step]
"""Takes a step on static buffers and returns what repeats it."""
StepKey = tuple[int, int, bool]
"""The block, counted from 0; the rows; whether outputs are scaled."""


class Captures:
    """What was captured, by key: the count grows with the keys that occur, never with the tasks."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._replays: dict[StepKey, Step] = {}

    def __len__(self) -> int:
        return len(self._replays)

    def __iter__(self) -> Iterator[StepKey]:
        return iter(self._replays)

    def __contains__(self, key: StepKey) -> bool:
        return key in self._replays

    def __getitem__(self, key: StepKey) -> Step:
        return self._replays[key]

    def add(self, key: StepKey, step: Step) -> None:
        self._replays[key] = self._capture(step)


def call_directly(step: Step) -> Step:
    """Capture nothing: where there are no graphs, a step is repeated by calling it."""
    step()
    return step


class GraphCapture:
    """Captures steps as CUDA graphs, whose intermediate results and cuBLAS workspace share one pool of memory.

    torch keeps a cuBLAS workspace for each stream, and other code in the process may have it freed, as
    `torch.compile(mode="reduce-overhead")` does when it records. A graph that was captured with such a workspace then
    writes to memory that is not its own. So none is left when a capture begins: the one it makes lies in the pool.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, step: Step) -> Step:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            step()  # kernels are compiled and libraries opened here: neither may happen within a capture
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        torch._C._cuda_clearCublasWorkspaces()
        graph = torch.cuda.CUDAGraph()
        # "thread_local": threads that load tasks meanwhile may allocate
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            step()
        torch._C._cuda_clearCublasWorkspaces()
        return graph.replay
