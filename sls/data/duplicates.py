"""Images that occur twice: with the same pixels in two splits or under two labels, and nearly so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from sls.data.dataset import Split
from sls.data.left_out import SHOWN, counted, listed
from sls.data.scan import SIDE, Scan

CANDIDATES = 4  # nearest images of another split that are compared
NEAR = 2.0  # mean difference of two thumbnails, in levels of 255; a JPEG saved again differs by less than 1
FLAT = 8.0  # standard deviation of a thumbnail below which it says too little


@dataclass(frozen=True)
class Duplicates:
    """`conflicting` counts images whose pixels are in another split or under another label too; `first` shows pairs.

    `repeated` counts those that repeat an image of the same split and label, which only weights it.
    """

    conflicting: int
    first: tuple[str, ...]
    repeated: int
    first_repeated: tuple[str, ...]

    def described(self) -> str:
        pairs = listed(list(self.first), self.conflicting)
        has = counted(self.conflicting, "image") + (" has" if self.conflicting == 1 else " have")
        return f"{has} the pixels of one in another split or under another label ({pairs})"


def find_duplicates(splits: Mapping[str, Split], scan: Scan) -> Duplicates:
    """Compare all images of all splits by their pixels, whatever file format keeps them."""
    groups: dict[bytes, list[tuple[str, int, int]]] = defaultdict(list)
    for part, split in splits.items():
        for index, facts in enumerate(scan.facts(split)):
            groups[facts.digest].append((part, int(split.labels[index]), index))
    conflicts: list[str] = []
    repeats: list[str] = []
    conflicting = repeated = 0
    for first, *others in groups.values():
        for other in others:
            pair = f"{_place(splits, other[0], other[2])} = {_place(splits, first[0], first[2])}"
            if first[:2] != other[:2]:
                conflicting += 1
                conflicts += [pair] * (len(conflicts) < SHOWN)
            else:
                repeated += 1
                repeats += [pair] * (len(repeats) < SHOWN)
    return Duplicates(conflicting, tuple(conflicts), repeated, tuple(repeats))


def near_duplicates(splits: Mapping[str, Split], scan: Scan) -> list[str]:
    """Return pairs of a validation or test image and one of another split before it that look alike, but for pixels.

    By thumbnails: a photograph that was scaled or compressed again is found, one that was cropped is not.
    """
    pairs: list[str] = []
    earlier: list[tuple[str, int]] = []
    known: set[bytes] = set()
    thumbnails = np.empty((0, SIDE * SIDE), np.float32)
    for part, split in splits.items():
        facts = scan.facts(split)
        own = np.array([np.frombuffer(f.thumbnail, np.uint8) for f in facts], np.float32).reshape(-1, SIDE * SIDE)
        if len(earlier) and len(own):
            pairs += [
                f"{_place(splits, part, row)} ~ {_place(splits, *earlier[other])}"
                for row, other in _alike(own, thumbnails)
                if facts[row].digest not in known
            ]
        earlier += [(part, index) for index in range(len(split))]
        known.update(image.digest for image in facts)
        thumbnails = np.concatenate([thumbnails, own])
    return pairs


def _alike(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return each row that is near to one of the others, with the nearest."""
    clear = np.flatnonzero(rows.std(axis=1) >= FLAT)
    if not len(clear):
        return []
    coarse, coarse_others = _coarse(rows[clear]), _coarse(others)
    tree = NearestNeighbors(n_neighbors=min(CANDIDATES, len(others)), algorithm="kd_tree").fit(coarse_others)
    found = []
    for row, candidates in zip(clear.tolist(), tree.kneighbors(coarse, return_distance=False), strict=True):
        differences = np.abs(others[candidates] - rows[row]).mean(axis=1)
        nearest = int(differences.argmin())
        if differences[nearest] <= NEAR:
            found.append((row, int(candidates[nearest])))
    return found


def _coarse(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average thumbnails to 4 x 4 values, few enough for a tree."""
    step = SIDE // 4
    means: npt.NDArray[np.float32] = thumbnails.reshape(-1, 4, step, 4, step).mean(axis=(2, 4))
    return means.reshape(-1, 16)


def _place(splits: Mapping[str, Split], part: str, index: int) -> str:
    place = splits[part].place(index)
    return f"{part} {place}" if place.startswith("image ") else place
