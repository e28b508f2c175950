from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.toy_backbone import Toy, fit, set_option

from store.adapters.methods.regex import compile_pattern
from store.adapters.methods.targets import MAX_NAMES, MAX_PATTERNS, matches
from store.errors import OnetrunkError, UnservedAdapterError

MODULES = [f"blocks.{block}.{kind}" for block in range(24) for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
atoms = st.sampled_from(["a", "b", ".", r"\.", r"\d", r"\w", r"\W", "[ab]", "[^a]", "[a-c.]", "[]a]", "1", "^", "$",
                         r"\b", r"\B", r"\A", r"\Z", ""])  # fmt: skip
quantifiers = st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{2,}", "{0}", "{1,2}?"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(st.sampled_from(["(", "(?:", "(?=", "(?!"]), inner).map(lambda parts: "".join(parts) + ")"),
        st.tuples(inner, quantifiers).map(lambda parts: f"(?:{parts[0]}){parts[1]}"),
        # not of nothing: the quantifier alone would make a possessive one of that before it, which is refused
        st.tuples(atoms.filter(bool), quantifiers).map("".join),
    ),
    max_leaves=8,
)
texts = st.text("ab1.c", max_size=7)


@settings(max_examples=500)
@given(patterns, texts)
def test_a_pattern_matches_what_re_matches(pattern: str, text: str) -> None:
    try:
        theirs = re.compile(pattern)
    except re.error:
        assume(False)
    ours = compile_pattern(pattern)
    assert ours.fullmatch(text) == (theirs.fullmatch(text) is not None)
    assert ours.match(text) == (theirs.match(text) is not None)


@given(st.text("ab.*+?()[]{}|^$\\0123,=!:<>P-", max_size=12), texts)
def test_whatever_is_compiled_is_a_pattern_to_re_with_the_same_answer(pattern: str, text: str) -> None:
    try:
        ours = compile_pattern(pattern)
    except ValueError:
        return
    assert ours.fullmatch(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern",
    [
        r"blocks\.\d+\.attn\.(qkv|proj)",
        r"^(?!.*patch_embed).*(?:qkv|fc1)$",
        r"(?:.*?(?:attn|self_attn|mlp).*?(?:qkv|proj|fc[12]).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)",
        r".*\.(?:1|3|5)\.(?P<kind>attn|mlp)\..+",
        r"blocks\.([0-9]|1[01])\..*",
    ],
)
def test_patterns_that_people_write_are_served(pattern: str) -> None:
    expected = [re.fullmatch(pattern, module) is not None for module in MODULES]
    assert any(expected)
    assert [matches({"target_modules": pattern}, module) for module in MODULES] == expected


HOSTILE = {
    "a repeated repeat": "([a-z.0-9]+)+!",
    "three of them": "((([a-z.0-9]+)+)+)+!",
    "alternatives that overlap": "(?:[a-z]|.|..|[^!])*!",
    "a row of stars": ".*" * 60 + "!",
    "a tower of brackets": "(" * 40 + ".*" + ")*" * 40 + "!",
    "large counts": "(?:(?:.{1,999999}){1,999999}){1,999999}!",
    "look-ahead within a loop": "(?:(?=.*!)|.)*!",
    "all that is allowed": "(.*.*)*" * (MAX_PATTERNS // 7),
}


@pytest.mark.parametrize("pattern", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("option", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"])
def test_a_pattern_made_to_stall_is_answered_in_bounded_time(folder: Path, toy: Toy, pattern: str, option: str) -> None:
    set_option(folder, **{option: {pattern: 4} if option.endswith("pattern") else pattern})
    started = time.process_time()
    with contextlib.suppress(OnetrunkError):
        fit(folder, toy)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": "(.*.*)*" * 1000}, f"7000 characters of regular expressions, at most {MAX_PATTERNS}"),
        ({"rank_pattern": {f"(x{i})+": 4 for i in range(1000)}}, "regular expressions, at most"),
        ({"alpha_pattern": {f"blocks.{i}.attn.qkv": 4 for i in range(9000)}}, f"names, at most {MAX_NAMES}"),
        ({"target_modules": [f"blocks.{i}.attn.qkv" for i in range(9000)]}, f"names, at most {MAX_NAMES}"),
        ({"layers_to_transform": [1], "layers_pattern": "(.*.*)*"}, "name the list of blocks alone"),
        ({"layers_to_transform": [1], "layers_pattern": [["blocks"]]}, "name the list of blocks alone"),
        ({"target_modules": r"(.)\1"}, "not understood"),
        ({"target_modules": "(?i)BLOCKS.*"}, "not understood"),
        ({"target_modules": ".*+"}, "target_modules"),
        ({"target_modules": "(?<=a).*"}, "not understood"),
        ({"target_modules": "(" * 300 + ")" * 300}, "brackets within each other"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_take_long_or_is_not_understood_is_refused_with_a_remedy(
    folder: Path, toy: Toy, options: dict[str, object], message: str
) -> None:
    set_option(folder, **{"target_modules": ["qkv", "proj", "fc1", "fc2"], **options})
    with pytest.raises(UnservedAdapterError, match=message) as caught:
        fit(folder, toy)
    assert "full path" in str(caught.value) or "blocks alone" in str(caught.value)
