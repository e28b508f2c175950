"""The other forms that tasks are compared with, each with its formula, what it assumes, and where that is said."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from store.accounting.counterfactuals import SERVING, ComparedTask, Counterfactual, saved_by_cut
from store.records.backbone import BackboneRecord

FP32 = 4  # bytes of a parameter
DEPGRAPH_PARAMETERS, DEPGRAPH_OF = 21_665_664, 85_798_656
"""ViT-B/16 without its head after and before pruning with DepGraph: half of each width, by Torch-Pruning 1.6.1.

With the head of 1,000 classes these are the 22.05 and 86.57 million that its README has.
"""
HEAD_DIMS, HIDDEN = re.compile(r".*blocks\.\d+\.attn\.qkv"), re.compile(r".*blocks\.\d+\.mlp\.fc1")

TORCH_PRUNING = "Torch-Pruning v1.6.1 (github.com/VainF/Torch-Pruning, e80127d), README and tests/test_load.py"
SLS = "Han and Tang, SLS, ECCV 2024 (arXiv 2407.14330)"
VIT_SLIM = "ViT-Slim (CVPR 2022, github.com/Arnav0400/ViT-Slim): one bit for each head dimension and hidden unit"


def mask_nbytes(record: BackboneRecord) -> int:
    """Return the bytes of a bit for each head dimension and each hidden unit of the MLP, in every block."""
    dims = sum(out // 3 for path, (out, _) in record.modules.items() if HEAD_DIMS.fullmatch(path))
    units = sum(out for path, (out, _) in record.modules.items() if HIDDEN.fullmatch(path))
    return math.ceil((dims + units) / 8)


def _parameters(tasks: Sequence[ComparedTask]) -> dict[str, int]:
    """P and H: the parameters of each task's backbone, and of its head, added up."""
    whole = sum(task.record.parameters for task in tasks)
    return {"K": len(tasks), "ΣP": whole, "ΣH": sum(task.facts.head_tensors.elements for task in tasks)}


def _full(tasks: Sequence[ComparedTask]) -> Counterfactual:
    terms = _parameters(tasks)
    return Counterfactual(
        name="full_copies_fp32",
        title="a full copy of the model for each task, float32",
        nbytes=FP32 * (terms["ΣP"] + terms["ΣH"]),
        formula="4 (ΣP + ΣH)",
        terms=terms,
        assumptions="Each task is a whole fine-tuned model: P parameters of its backbone and H of its head, 4 bytes "
        "each, without headers.",
        source="full fine-tuning, the baseline of " + SLS,
    )


def _serving(tasks: Sequence[ComparedTask]) -> Counterfactual:
    terms = _parameters(tasks)
    return Counterfactual(
        name="full_copies_serving_dtype",
        title="a full copy for each task, bfloat16",
        nbytes=SERVING * (terms["ΣP"] + terms["ΣH"]),
        formula="2 (ΣP + ΣH)",
        terms=terms,
        assumptions="As above, stored in the 2 bytes a parameter that a server computes with.",
        source="full fine-tuning, the baseline of " + SLS,
    )


def _pruned(tasks: Sequence[ComparedTask]) -> Counterfactual:
    terms = _parameters(tasks) | {"ΣC": sum(task.record.parameters_above(task.depth) for task in tasks)}
    return Counterfactual(
        name="pruned_copies",
        title="a pruned copy for each task, stored whole, as many parameters as the cut keeps",
        nbytes=FP32 * (terms["ΣP"] - terms["ΣC"] + terms["ΣH"]),
        formula="4 (ΣP - ΣC + ΣH)",
        terms=terms,
        assumptions="Structured pruning, by width or by depth, that removes the C parameters of the blocks above the "
        "cut. The tool saves the pruned model whole, in float32: its weights are fine-tuned, so tasks share none. "
        "The pickle around the weights is not counted.",
        source=TORCH_PRUNING,
    )


def depgraph_nbytes(parameters: int, head: int) -> int:
    """Return the bytes of a model of so many parameters without its head, pruned as that ViT-B/16, and of its head."""
    return FP32 * (parameters * DEPGRAPH_PARAMETERS // DEPGRAPH_OF + head // 2)


def _depgraph(tasks: Sequence[ComparedTask]) -> Counterfactual:
    terms = _parameters(tasks)
    return Counterfactual(
        name="depgraph_copies",
        title="a copy pruned as far as DepGraph's published ViT-B/16, stored whole",
        nbytes=depgraph_nbytes(terms["ΣP"], terms["ΣH"]),
        formula="4 (ΣP 21.67 / 85.80 + ΣH / 2)",
        terms=terms,
        assumptions="Every task keeps half of each width, for ViT-B/16 21.67 of 85.80 million parameters, and half of "
        "its head. On ImageNet that model has 0.16 % accuracy before fine-tuning of all weights and 80.19 % after 300 "
        "epochs (85.21 % unpruned), so no task can share weights with another. With 1,000 classes the tool saves it as "
        "a file of 88,308,687 bytes, 0.12 % more than this says (measured, benchmarks.registry.width_pruned).",
        source=TORCH_PRUNING,
    )


def _pruned_index(tasks: Sequence[ComparedTask]) -> Counterfactual:
    fixed = backbone_nbytes(tasks)
    records = {task.record.id.fingerprint: task.record for task in tasks}
    of_each = {fingerprint: mask_nbytes(record) for fingerprint, record in records.items()}
    terms = {
        "B": fixed,
        "ΣI": sum(of_each[task.record.id.fingerprint] for task in tasks),
        "ΣA": payload_nbytes(tasks),
    }
    return Counterfactual(
        name="pruned_index",
        title="the same pruning as an index over one frozen backbone, with this store's adapters",
        nbytes=fixed + terms["ΣI"] + terms["ΣA"],
        fixed_nbytes=fixed,
        formula="B + ΣI + ΣA",
        terms=terms,
        assumptions="B is the backbone once. I is a mask with one bit for each head dimension and hidden unit. The "
        "backbone's weights stay frozen, so each task still needs A, its adapter and head, to recover accuracy. "
        "Headers and manifests are not counted. No published tool stores this. Of DepGraph's ViT-B/16 such an index, "
        "which thins the residual stream as well, has 5,856 bytes, and gives the same tensors again (measured).",
        source=VIT_SLIM + "; replay of indices in " + TORCH_PRUNING,
    )


def _deduplicated(tasks: Sequence[ComparedTask]) -> Counterfactual:
    groups: defaultdict[str, list[ComparedTask]] = defaultdict(list)
    for task in tasks:
        groups[task.record.id.fingerprint].append(task)
    own = sum(task.adapted.total() for task in tasks)
    shared = sum(map(_shared_parameters, groups.values()))
    terms = {"S": shared, "ΣW": own, "ΣH": _parameters(tasks)["ΣH"]}
    return Counterfactual(
        name="deduplicated_copies",
        title="full float32 copies, equal tensors stored once",
        nbytes=FP32 * (shared + own + terms["ΣH"]),
        fixed_nbytes=FP32 * shared,
        formula="4 (S + ΣW + ΣH)",
        terms=terms,
        assumptions="Adapters are merged into full copies, and a content-addressed store keeps tensors that are equal "
        "once: S are the backbone's that at least one task leaves as they are, W those that a task changes. Losing "
        "nothing, it cannot undo the merge.",
        source="computed from this store's adapted modules",
    )


def _shared_parameters(tasks: Sequence[ComparedTask]) -> int:
    """Return the parameters of a backbone that at least one of its tasks shares."""
    replaced = set.intersection(*(set(task.adapted) for task in tasks))
    return tasks[0].record.parameters - sum(tasks[0].adapted[module] for module in replaced)


def _uncut(tasks: Sequence[ComparedTask]) -> Counterfactual:
    fixed = backbone_nbytes(tasks)
    more = sum(saved_by_cut(task.facts, task.depth, task.record.blocks) for task in tasks)
    terms = {"B": fixed, "ΣA": payload_nbytes(tasks), "ΣU": more}
    return Counterfactual(
        name="uncut_adapters",
        title="one frozen backbone, adapters in all blocks",
        nbytes=fixed + terms["ΣA"] + more,
        fixed_nbytes=fixed,
        formula="B + ΣA + ΣU",
        terms=terms,
        assumptions="U is what adapters above the cut would take, each block as much as an adapted one on average. "
        "Headers and manifests are not counted.",
        source="the upper bound of S in " + SLS,
    )


def _paper_sum(tasks: Sequence[ComparedTask]) -> Counterfactual:
    fixed = backbone_nbytes(tasks)
    terms = {"B": fixed, "ΣA": payload_nbytes(tasks)}
    return Counterfactual(
        name="paper_sum",
        title="the paper's sum S: one backbone, adapters up to the cut, heads",
        nbytes=fixed + terms["ΣA"],
        fixed_nbytes=fixed,
        formula="S = B + ΣA = Σᵢ W_P(i) + Σⱼ Σ_{i ≤ cut(j)} W_A(i,j) + Σⱼ W_H(j)",
        terms=terms,
        assumptions="Weights alone: no headers, manifests, names, history or older versions. What this store takes "
        "above S is all that.",
        source=SLS,
    )


def backbone_nbytes(tasks: Sequence[ComparedTask]) -> int:
    return sum({task.record.id.fingerprint: task.record.nbytes for task in tasks}.values())


def payload_nbytes(tasks: Sequence[ComparedTask]) -> int:
    return sum(task.payload_nbytes for task in tasks)


FORMS = (_full, _serving, _pruned, _depgraph, _pruned_index, _deduplicated, _uncut, _paper_sum)
