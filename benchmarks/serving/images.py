"""What an image costs before the engine has it: header, decoding, resizing, normalising; and what large ones may cost.

For images of several sizes and kinds, and inputs of 64 and 224 pixels: microseconds of reading the header, of decoding
and transforming as timm does, and of decoding and transforming as the server does, in this thread and in a helper
process; their ratio; the share of photos whose decoding at reduced size (Pillow's `draft`) changes a pixel of the
input, by how much, and the time that it would save. All ways take turns. JSON in benchmarks/results/images.json.

    python -m benchmarks.serving.images
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.support.figures import conclude, machine, spread, spread_of_ratios, spread_text
from benchmarks.support.options import make_parser
from onetrunk.rendering.tables import to_markdown
from serving.runtime.decode_helper import DecodeHelper
from store.images.decoding import decode
from store.images.fitting import fit
from store.images.headers import read_header
from store.records.backbone import Preprocessing
from store.weights.preprocessing import Normalise, make_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = {"JPEG": {}, "progressive JPEG": {"progressive": True}, "PNG": {}}
SIZES = ((64, 64), (128, 128), (224, 224), (500, 375), (4000, 3000))
CALLS_S = 0.05  # of each way in a round, at least one call


def photo(width: int, height: int, kind: str) -> bytes:
    """An image with structure at every scale, as photos have it."""
    source = np.random.default_rng(width)
    layers = np.zeros((height, width, 3), np.float32)
    for level in range(2, 9):
        cells = source.random((max(2, height >> level), max(2, width >> level), 3), np.float32)
        layer = Image.fromarray((255 * cells).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        layers += np.asarray(layer, np.float32) * 2.0 ** (level - 9)
    image = Image.fromarray(layers.clip(0, 255).astype(np.uint8)).filter(ImageFilter.SHARPEN)
    out = io.BytesIO()
    image.save(out, kind.split()[-1], **KINDS[kind])
    return out.getvalue()


def seconds_of(act: Callable[[], object]) -> float:
    """Return the mean seconds of a call."""
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < CALLS_S:
        act()
        calls += 1
    return (time.perf_counter() - start) / calls


def drafted(data: bytes, preprocessing: Preprocessing) -> bytes:
    """Decode at the smallest scale that still has twice the input's pixels along each side."""
    with Image.open(io.BytesIO(data)) as image:
        side = 2 * math.floor(preprocessing.height / preprocessing.crop_pct)
        image.draft("RGB", (side, side))
        image.load()
        return fit(image.convert("RGB"), preprocessing).tobytes()


def measure(data: bytes, preprocessing: Preprocessing, rounds: int, *, draft: bool) -> dict[str, object]:
    transform, normalise = make_transform(preprocessing), Normalise(preprocessing)
    helper = DecodeHelper(preprocessing, seconds=60)
    ways: dict[str, Callable[[], object]] = {
        "header": lambda: read_header(data),
        "timm": lambda: transform(decode(data)),
        "here": lambda: normalise(fit(decode(data, read_header(data)), preprocessing).tobytes()),
        "helper": lambda: normalise(helper.decode(data)),
        "draft": lambda: normalise(drafted(data, preprocessing)),
    }
    if not draft:
        del ways["draft"]
    try:
        times: dict[str, list[float]] = {name: [] for name in ways}
        helper.decode(data)  # starts it
        for _ in range(rounds):
            for name, act in ways.items():
                times[name].append(seconds_of(act))
    finally:
        helper.close()
    row: dict[str, object] = {name: spread([1e6 * value for value in values]) for name, values in times.items()}
    row["timm / here"] = spread_of_ratios(times["timm"], times["here"])
    if draft:
        exact, reduced = (
            np.frombuffer(pixels, np.uint8).astype(int)
            for pixels in (fit(decode(data), preprocessing).tobytes(), drafted(data, preprocessing))
        )
        difference = np.abs(exact - reduced)
        row["draft changes"] = {"share": float((difference > 0).mean()), "most": int(difference.max())}
    return row


def measure_all(sizes: Sequence[tuple[int, int]], rounds: int) -> list[dict[str, object]]:
    rows = []
    for side in (64, 224):
        preprocessing = Preprocessing(side, side, "bicubic", MEAN, STD, 0.9, "center")
        for width, height in sizes:
            for kind in KINDS:
                data = photo(width, height, kind)
                draft = kind == "JPEG" and min(width, height) >= 4 * side
                row = measure(data, preprocessing, rounds, draft=draft)
                rows.append({"input": side, "image": f"{width} x {height} {kind}", "nbytes": len(data), **row})
    return rows


def main() -> None:
    parser = make_parser(__doc__, out="images.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many sizes, the smallest first")
    options = parser.parse_args()
    rows = measure_all(SIZES[: options.sizes], options.rounds)
    shown = ("header", "timm", "here", "helper", "draft", "timm / here")
    table = [
        {"input": row["input"], "image": row["image"]}
        | {name: spread_text(row[name], ".2f") if name in row else "" for name in shown}
        for row in rows
    ]
    print(to_markdown(table))
    conclude(options.out, {"machine": machine(), "microseconds": rows})


if __name__ == "__main__":
    main()
