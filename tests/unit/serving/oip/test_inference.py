"""The binary form of BYTES: each element after its length."""

from __future__ import annotations

import random
import struct

import pytest

from serving.oip.inference import MOST_ELEMENTS, MadeOutput, split_elements
from store.errors import FormatError


def test_elements_are_what_was_joined() -> None:
    source = random.Random(0)
    for _ in range(100):
        elements = [source.randbytes(source.randrange(9)) for _ in range(source.randrange(9))]
        assert split_elements(MadeOutput("a", "BYTES", (), elements, binary=True).raw(), "a") == tuple(elements)


@pytest.mark.parametrize(("raw", "problem"), [
    (b"\x01", "within the length of element 0"), (struct.pack("<I", 2) + b"a", "element 0 of input 'a' is shorter"),
    (bytes(8 * MOST_ELEMENTS), "more than 4,096 elements"),
])  # fmt: skip
def test_what_is_not_elements_is_refused(raw: bytes, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        split_elements(raw, "a")
