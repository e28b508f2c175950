"""What a source holds, before its missing splits are drawn; and the spellings of the names of splits."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from sls.data.dataset import Split

PARTS = ("train", "validation", "test")
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "train_set", "training_set"),
    "validation": ("validation", "val", "valid", "dev", "valset", "val_set", "validation_set"),
    "test": ("test", "testing", "eval", "evaluation", "testset", "test_set", "testing_set"),
}
"""Split -> the names that people give it, in lower case; `eval` is the test split, as for Hugging Face."""
PART_OF = {spelling: part for part, spellings in SPELLINGS.items() for spelling in spellings}
PLAIN = frozenset({"train", "validation", "val", "test"})


@dataclass(frozen=True)
class RawDataset:
    """Class names, the splits that the source has by their names, and what is to be told about it."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()


def part_of(name: str) -> str | None:
    """Return the split that a folder, a file or a value of this name means; None where it means none."""
    return PART_OF.get(name.strip().casefold().replace("-", "_"))


def normal(name: str) -> str:
    """Return the name in Unicode's NFC, in which class names are compared."""
    return unicodedata.normalize("NFC", name)
