"""What the same tasks would take in other forms: the values, and what a task brings to them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from store.accounting.facts import VersionFacts
from store.records.backbone import BackboneRecord
from store.records.geometry import MERGE

PARALLEL_SITES = (".attn", ".mlp")
SERVING = 2  # bytes of a bfloat16 parameter


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """The same tasks in another form: `fixed_nbytes` once, and the rest evenly for each task.

    `break_even_tasks` is the least number of tasks from which this store takes less than this form, None where it
    never does. Terms are the values of the formula's symbols.
    """

    name: str
    title: str
    nbytes: int
    fixed_nbytes: int = 0
    formula: str
    terms: dict[str, int]
    assumptions: str
    source: str
    break_even_tasks: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The store beside other forms of the latest versions of its tasks, backbones that lie elsewhere included."""

    tasks: int
    left_out: int
    nbytes: int
    fixed_nbytes: int
    forms: tuple[Counterfactual, ...]

    def form(self, name: str) -> Counterfactual:
        return next(form for form in self.forms if form.name == name)


@dataclass(frozen=True)
class Resident:
    """Bytes in memory with every task loaded: one backbone and all adapters, or one whole model for each task."""

    shared_nbytes: int
    copies_nbytes: int
    copies_serving_nbytes: int


@dataclass(frozen=True)
class ComparedTask:
    """A task's latest version, as far as other forms of it are counted."""

    record: BackboneRecord
    facts: VersionFacts
    depth: int

    @property
    def payload_nbytes(self) -> int:
        return self.facts.adapter_tensors.payload_nbytes + self.facts.head_tensors.payload_nbytes

    @cached_property
    def adapted(self) -> Counter[str]:
        """Parameters of each linear map and norm that the task adapts; parallel adapters adapt none."""
        linear = self.record.modules
        modules = (m for m in self.facts.modules if not m.endswith(PARALLEL_SITES))
        return Counter({m: math.prod(linear[m]) if m in linear else 2 * self._norm_width(m) for m in modules})

    def _norm_width(self, norm: str) -> int:
        merge = self.record.modules.get(norm.replace(f"{MERGE}.norm", f"{MERGE}.reduction"))
        number = self.record.geometry.number(norm)
        return merge[1] if merge is not None else self.record.width_at(number or self.record.blocks)


def saved_by_cut(facts: VersionFacts, depth: int, blocks: int) -> int:
    """Return the bytes that adapters above the cut would take, each block as much as an adapted one on average."""
    return facts.adapter_tensors.block_nbytes * (blocks - depth) // max(1, facts.adapted_blocks)
