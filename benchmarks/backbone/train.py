"""Train the packaged backbone, `vit_tiny_64`, from random initialisation: the recipe that its card names.

A ViT-Ti/8 at 64 px with a classifier, on Tiny ImageNet's training images, supervised, for as many epochs as fit into
`--seconds`: the speed is measured first, and the number of steps follows from it. Muon trains the blocks' matrices,
AdamW the rest; rates rise for 3 % of the steps and fall as a cosine to zero. Half of the patches are dropped in the
first `--dropping` of the time, which makes these steps twice as fast. Products run in bfloat16; on a GPU the blocks are
compiled, and a step is one CUDA graph. Writes the weights in float16 (OUT.safetensors) and what was reached (OUT.json):
accuracy on the validation images is of the stored weights, in float32.

`--data` is an .npz of train_x (n, 64, 64, 3) uint8, train_y, test_x, test_y, as `benchmarks.backbone.tiny_imagenet`
makes it.

    python -m benchmarks.backbone.train
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.backbone.augment import Augmentation
from benchmarks.backbone.muon import Muon
from benchmarks.support.options import RESULTS, bare_parser
from serving.engine.cuda.captures import Capture, GraphCapture, Step, call_directly

ARCHITECTURE, ARGUMENTS = "vit_tiny_patch16_224", {"img_size": 64, "patch_size": 8}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MATRIX_RATE, OTHER_RATE = 0.02, 2e-3
MATRIX_DECAY, OTHER_DECAY = 0.01, 0.05
WARMUP = 0.03  # share of the steps
DROPPED = 0.5  # share of the patches, at first
SMOOTHING = 0.1
TRIAL_STEPS = 20


@dataclass(frozen=True)
class Images:
    """uint8 (n, 3, h, w) and classes (n), on the device."""

    x: Tensor
    y: Tensor

    @classmethod
    def read(cls, data: Path, part: str, device: torch.device, limit: int | None) -> Images:
        with np.load(data) as arrays:
            x, y = (torch.from_numpy(arrays[f"{part}_{name}"][:limit]) for name in "xy")
        return cls(x.permute(0, 3, 1, 2).contiguous().to(device), y.long().to(device))


class Training:
    """A model, its optimisers and what draws its batches; a step reads its inputs from memory that stays in place."""

    def __init__(self, images: Images, options: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(options.seed)
        self.model = make_model(int(images.y.max()) + 1).to(device)
        self._images, self._batch, self._device = images, options.batch, device
        self._augment = Augmentation(options.seed, device)
        self._order = torch.Generator(device).manual_seed(options.seed)
        self._queue = torch.empty(0, dtype=torch.long, device=device)
        self._x = torch.zeros(options.batch, *images.x.shape[1:], device=device)
        self._y, self._partners = (torch.zeros(options.batch, dtype=torch.long, device=device) for _ in range(2))
        self._share, self._matrix_rate, self._other_rate = (torch.zeros((), device=device) for _ in range(3))
        self._norm = Normalise(device)
        self._optimisers()
        captured = device.type == "cuda" and not options.eager
        if captured:
            for block in self.model.blocks:
                block.compile(dynamic=False)
        self._capture: Capture = GraphCapture(device) if captured else call_directly
        self._steps: dict[bool, Step] = {}

    def _optimisers(self) -> None:
        matrices = [p for p in self.model.blocks.parameters() if p.ndim == 2]
        held = {id(matrix) for matrix in matrices}
        others = [p for p in self.model.parameters() if id(p) not in held]
        self._muon = Muon(matrices, weight_decay=MATRIX_DECAY)
        self._adamw = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim > 1], "weight_decay": OTHER_DECAY},
                {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self._other_rate, betas=(0.9, 0.95), capturable=self._device.type == "cuda",
        )  # fmt: skip

    def step(self, share: float, *, dropping: bool) -> None:
        """Take one step at this share of the highest rates."""
        rows = self._next_rows()
        mixed, y = self._augment(self._images.x[rows]), self._images.y[rows]
        self._x.copy_(self._norm(mixed.images))
        self._y.copy_(y)
        self._partners.copy_(y.roll(1))
        self._share.fill_(mixed.share)
        if dropping not in self._steps:  # to capture a step is to take it, so it is taken at a rate of 0
            self.model.patch_drop.prob = DROPPED if dropping else 0.0
            self.model.zero_grad(set_to_none=True)
            self._steps[dropping] = self._capture(self._learn)
        self._matrix_rate.fill_(share * MATRIX_RATE)
        self._other_rate.fill_(share * OTHER_RATE)
        self._steps[dropping]()
        self._matrix_rate.zero_()
        self._other_rate.zero_()

    def loss(self) -> float:
        """Return the loss of the last step; the host waits for it."""
        return self._loss.item()

    def _learn(self) -> None:
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16):
            logits = self.model.train()(self._x).float()
        losses = [F.cross_entropy(logits, y, label_smoothing=SMOOTHING) for y in (self._partners, self._y)]
        self._loss = torch.lerp(*losses, self._share)
        self._loss.backward()
        self._adamw.step()
        self._muon.step(self._matrix_rate)

    def _next_rows(self) -> Tensor:
        if len(self._queue) < self._batch:
            self._queue = torch.randperm(len(self._images.y), device=self._device, generator=self._order)
        rows, self._queue = self._queue[: self._batch], self._queue[self._batch :]
        return rows


class Normalise:
    """Takes images in 0..1 to the backbone's inputs."""

    def __init__(self, device: torch.device) -> None:
        self._mean, self._std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (MEAN, STD))

    def __call__(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._std


def make_model(classes: int) -> VisionTransformer:
    model: VisionTransformer = timm.create_model(
        ARCHITECTURE, num_classes=classes, patch_drop_rate=DROPPED, **ARGUMENTS
    )
    return model


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, held_out = (Images.read(options.data, part, device, options.limit) for part in ("train", "test"))
    dropping, whole = plan(images, options, device)
    training, started = Training(images, options, device), time.monotonic()
    history = run(training, held_out, dropping, dropping + whole)
    seconds = time.monotonic() - started
    weights = {name: tensor.half().contiguous() for name, tensor in training.model.state_dict().items()}
    training.model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu() for name, tensor in weights.items()}, Path(f"{options.out}.safetensors"))
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__, "timm": timm.__version__, "seed": options.seed, "batch": options.batch,
        "steps": {"half of the patches": dropping, "all patches": whole},
        "epochs": round((dropping + whole) * options.batch / len(images.y), 1),
        "seconds": round(seconds, 1), "images": len(images.y),
        "accuracy": accuracy(training.model, held_out, autocast=False), "history": history,
    }  # fmt: skip
    Path(f"{options.out}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "history"}))


def plan(images: Images, options: argparse.Namespace, device: torch.device) -> tuple[int, int]:
    """Return how many steps, with half of the patches and with all, take the seconds that are given."""
    trial, steps = Training(images, options, device), []
    for dropping, share in ((True, options.dropping), (False, 1 - options.dropping)):
        for _ in range(3):
            trial.step(0, dropping=dropping)
        trial.loss()
        start = time.monotonic()
        for _ in range(TRIAL_STEPS if device.type == "cuda" else 1):
            trial.step(0, dropping=dropping)
        trial.loss()
        taken = (time.monotonic() - start) / (TRIAL_STEPS if device.type == "cuda" else 1)
        steps.append(max(1, int(share * options.seconds / taken)))
        _tell(f"{taken * 1e3:.1f} ms a step, {options.batch / taken:.0f} images a second, {steps[-1]} steps")
    return steps[0], steps[1]


def run(training: Training, held_out: Images, dropping: int, steps: int) -> list[dict[str, float]]:
    """Take the steps and return, at each tenth, the loss of the last batch and the accuracy on the held-out images."""
    history: list[dict[str, float]] = []
    marks = {max(1, steps * tenth // 10) for tenth in range(1, 11)}
    for step in range(steps):
        training.step(rate_share(step, steps), dropping=step < dropping)
        if step + 1 in marks:
            found = accuracy(training.model, held_out, autocast=True)
            history.append({"step": step + 1, "loss": round(training.loss(), 4), **found})
            _tell(f"step {step + 1} of {steps}: loss {history[-1]['loss']}, {found}")
    return history


def rate_share(step: int, steps: int) -> float:
    """Return the share of the highest rate: a line up, then half a cosine down."""
    warmup = max(1, int(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.inference_mode()
def accuracy(model: VisionTransformer, images: Images, *, autocast: bool) -> dict[str, float]:
    """Return the shares of the images, in percent, whose class is the first, and among the first five."""
    model.eval()
    ranks, norm = [], Normalise(images.x.device)
    for x, y in zip(images.x.split(1000), images.y.split(1000), strict=True):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            best = model(norm(x.float() / 255)).topk(5).indices
        ranks.append(best == y[:, None])
    right = torch.cat(ranks).float()
    return {
        "top-1": round(100 * right[:, 0].mean().item(), 2),
        "top-5": round(100 * right.sum(1).mean().item(), 2),
    }


def parse() -> argparse.Namespace:
    parser = bare_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("tiny_imagenet.npz"), help="the images (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "vit_tiny_64.v3", help="without a suffix (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=350, help="of training (default: %(default)s)")
    parser.add_argument("--dropping", type=float, default=0.4, help="share of them with half of the patches")
    parser.add_argument("--batch", type=int, default=1024, help="images a step (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="compile and capture nothing")
    parser.add_argument("--limit", type=int, help="use so many images alone, to try the script")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
