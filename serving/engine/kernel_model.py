"""The backbone in the engine's own kernel, beside a twin in torch for tasks that the kernel does not run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from serving.engine.batch_run import Tokens
from serving.engine.kernel_tokens import KernelTokens
from serving.engine.row_plan import EngineTask
from serving.engine.split_tokens import Part, SplitTokens
from serving.engine.torch_model import TorchModel
from serving.kernel.kernel import Kernel
from serving.kernel.task import PackedTask
from store.weights.forms import TaskWeights
from store.weights.regular_task import RegularTask
from store.weights.tokens import check_forms
from store.weights.width import check_kept


@dataclass(frozen=True)
class KernelModel:
    """`vit` is there only where the kernel leaves the stem or the pooling to torch; `skeleton` has no weights.

    `in_torch` gives the same backbone in torch, which is made when a task turns the inputs or outputs of a map: the
    kernel does not.
    """

    kernel: Kernel
    vit: VisionTransformer | None
    skeleton: VisionTransformer
    in_torch: Callable[[], TorchModel]
    packed: dict[int, PackedTask] = field(default_factory=dict)
    """By the identity of task weights that were not prepared, for as long as they live."""

    def prepare(self, task: TaskWeights | RegularTask) -> EngineTask:
        """Pack a task; the weights themselves are not needed any more. Those that torch runs stay as they are."""
        if isinstance(task, RegularTask):
            return self.kernel.pack(task)
        return self.in_torch().prepare(task) if task.forms.has_turns else self._pack(task)

    def _pack(self, weights: TaskWeights) -> PackedTask:
        check_kept(weights.forms.kept, self.skeleton)
        check_forms(weights.forms, self.skeleton)
        return self.kernel.pack(weights)

    def prepared(self, task: EngineTask) -> EngineTask:
        if not isinstance(task, TaskWeights) or task.forms.has_turns:
            return task
        if (known := self.packed.get(id(task))) is None:
            known = self.packed[id(task)] = self._pack(task)
            weakref.finalize(task, self.packed.pop, id(task), None)
        return known

    def begin(self, images: Tensor, tasks: Sequence[PackedTask | TaskWeights]) -> Tokens:
        turned = [member for member, task in enumerate(tasks) if isinstance(task, TaskWeights)]
        if not turned:
            return KernelTokens(self.kernel, self.vit, images, cast(Sequence[PackedTask], tasks))
        in_torch = self.in_torch().begin(images, cast(Sequence[TaskWeights], tasks))
        if len(turned) == len(tasks):
            return in_torch
        packed = set(range(len(tasks))) - set(turned)
        in_kernel = KernelTokens(self.kernel, self.vit, images, cast(Sequence[PackedTask], tasks))
        return SplitTokens(tasks, [Part(in_kernel, packed), Part(in_torch, set(turned))])
