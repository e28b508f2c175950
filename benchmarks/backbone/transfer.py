"""What a backbone's frozen features are worth to tasks that it was not trained for, after each of its blocks.

For each embedded task, a linear head in closed form (ridge, its penalty by leave-one-out) on the pooled and normed
features of `--train` images, tried on `--test` others. Prints, for each backbone and task, the accuracy at the top and
at the best block; JSON, with every block, in benchmarks/results/transfer.json. No tuning, so minutes.

    python -m benchmarks.backbone.transfer
"""

from __future__ import annotations

import argparse
import json
import statistics

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.support.options import make_parser, settings_of
from sls.data.dataset import Split
from sls.data.embedded import EMBEDDED, render
from sls.scoring.features import block_features
from sls.scoring.ridge import RidgeHead, ridge_head
from store.weights.backbones import PACKAGED, load_backbone
from store.weights.preprocessing import make_transform


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    found = {name: {task: accuracies(name, task, options) for task in EMBEDDED} for name in options.backbone}
    for name, tasks in found.items():
        for task, blocks in tasks.items():
            best = int(np.argmax(blocks))
            print(f"{name}, {task}: {blocks[-1]:.1f} % at the top, {blocks[best]:.1f} % after block {best + 1}")
        top, best = (statistics.mean(pick(blocks) for blocks in tasks.values()) for pick in (_last, max))
        print(f"{name}, mean: {top:.1f} % at the top, {best:.1f} % at the best block")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"settings": settings_of(options), "percent by block": found}, indent=2) + "\n")


def accuracies(name: str, task: str, options: argparse.Namespace) -> list[float]:
    """Return the accuracy on the test images, in percent, of a head after each block."""
    backbone = load_backbone(name)
    transform, vit = make_transform(backbone.record.id.preprocessing), backbone.build()
    parts = {part: Split(*render(task, part, getattr(options, part))) for part in ("train", "test")}
    features = {part: block_features(vit, split, transform).served for part, split in parts.items()}
    labels = {part: split.labels for part, split in parts.items()}
    classes = len(EMBEDDED[task].classes)
    heads = [ridge_head(block, labels["train"], classes) for block in features["train"]]
    return [_accuracy(head, block, labels["test"]) for head, block in zip(heads, features["test"], strict=True)]


def _accuracy(head: RidgeHead, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    logits = torch.from_numpy(features) @ head.weight.T + head.bias
    return 100 * float((logits.argmax(1).numpy() == labels).mean())


def _last(blocks: list[float]) -> float:
    return blocks[-1]


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="transfer.json")
    parser.add_argument("--backbone", nargs="+", default=[*PACKAGED], help="names; default: the packaged ones")
    parser.add_argument("--train", type=int, default=600, help="images to fit a head to (default: %(default)s)")
    parser.add_argument("--test", type=int, default=600, help="images to try it on (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
