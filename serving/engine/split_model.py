"""The engine's own kernel and torch beside it: the tasks whose forms the kernel does not run go through torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from threading import Lock
from typing import Any, cast

from torch import Tensor

from serving.engine.batch_run import Tokens
from serving.engine.kernel_model import KernelModel
from serving.engine.row_plan import EngineRow, EngineTask
from serving.engine.torch_model import TorchModel
from serving.kernel.kernel import Kernel
from serving.kernel.support import runs_forms
from serving.kernel.task import PackedTask
from store.weights.forms import TaskWeights


@dataclass(frozen=True)
class TorchTask(TaskWeights):
    """A task that the kernel leaves to torch, from the first block on: its rows are shared with no task of the kernel.

    So what runs in the kernel has the same bytes whether such a task is in the batch or not.
    """

    @cached_property
    def first_block(self) -> int:
        return 1

    @classmethod
    def of(cls, weights: TaskWeights) -> TorchTask:
        return cls(**{one.name: getattr(weights, one.name) for one in fields(TaskWeights)})


@dataclass(frozen=True)
class SplitModel:
    """The kernel, and torch's model of the same backbone, which is built when the first task needs it."""

    packed: KernelModel
    build: Callable[[], TorchModel]
    _built: list[TorchModel] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    @property
    def kernel(self) -> Kernel:
        return self.packed.kernel

    @property
    def torch(self) -> TorchModel:
        with self._lock:
            if not self._built:
                self._built.append(self.build())
        return self._built[0]

    def prepare(self, weights: TaskWeights) -> EngineTask:
        if runs_forms(weights.forms):
            return self.packed.prepare(weights)
        return TorchTask.of(self.torch.prepare(weights))

    def prepared(self, task: EngineTask) -> EngineTask:
        if isinstance(task, TorchTask):
            return task
        if isinstance(task, TaskWeights) and not runs_forms(task.forms):
            return self.prepare(task)
        return self.packed.prepared(task)

    def begin(self, images: Tensor, tasks: Sequence[EngineTask]) -> Tokens:
        if not any(isinstance(task, TorchTask) for task in tasks):
            return self.packed.begin(images, cast(Sequence[PackedTask], tasks))
        return SplitTokens(self, images, tasks)


class SplitTokens:
    """The rows of a batch in two parts, each in the model that runs its tasks; no row goes from one to the other."""

    def __init__(self, model: SplitModel, images: Tensor, tasks: Sequence[EngineTask]) -> None:
        self._model = model
        self._images = images
        self._tasks = tasks
        self._parts: dict[bool, Tokens] = {}
        self._places: list[int] = []  # of each row that goes on, in its own part

    def advance(self, rows: Sequence[EngineRow], sources: Sequence[int], start: int, stop: int) -> Mapping[int, Tensor]:
        logits: dict[int, Tensor] = {}
        for in_torch in (False, True):
            mine = [index for index, row in enumerate(rows) if isinstance(row.task, TorchTask) == in_torch]
            if not mine:
                continue
            own = [sources[index] if start == 0 else self._places[sources[index]] for index in mine]
            if start == 0:
                self._parts[in_torch], own = self._begin(own, in_torch=in_torch)
            logits |= self._parts[in_torch].advance([rows[index] for index in mine], own, start, stop)
        counts = {False: 0, True: 0}
        self._places = []
        for row in rows:
            if row.depth > stop:
                in_torch = isinstance(row.task, TorchTask)
                self._places.append(counts[in_torch])
                counts[in_torch] += 1
        return logits

    def _begin(self, images: list[int], *, in_torch: bool) -> tuple[Tokens, list[int]]:
        """Begin a part; return the row of its images that each of its rows starts from."""
        tasks = cast(Any, self._tasks)  # each part looks up those of its own rows
        if not in_torch:
            return self._model.packed.begin(self._images, tasks), images
        needed = sorted(set(images))
        return self._model.torch.begin(self._images[needed], tasks), [needed.index(image) for image in images]
