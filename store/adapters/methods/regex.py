"""Match the regular expressions of a PEFT config without backtracking: a hostile one cannot stall a publish.

A node says, for each position of the text, where a match from there may end: bit j of ends[i]. No end lies before
its start, so every loop is finite, and a pattern costs its length times the square of the text's at most.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_NESTING = 50
TOKEN = re.compile(
    r"""(?P<quantifier>(?:[*+?]|\{(?P<low>\d{0,9})(?P<comma>,?)(?P<high>\d{0,9})\})\??)
    |(?P<open>\((?:\?(?::|=|!|P<\w+>)|(?!\?)))
    |(?P<close>\))
    |(?P<alternation>\|)
    |(?P<anchor>\\[AbBZ]|[\^$])
    |(?P<char>\\[dDwWsS]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\*+?{()|\[^$])""",
    re.VERBOSE | re.DOTALL,
)
BOUNDS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}

Ends = Sequence[int]
Node = Callable[[str], Ends]


@dataclass(frozen=True)
class Pattern:
    """What `re.compile` would give, for asking whether it matches and nothing else."""

    node: Node

    def fullmatch(self, text: str) -> bool:
        return bool(self.node(text)[0] >> len(text) & 1)

    def match(self, text: str) -> bool:
        return self.node(text)[0] != 0


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Pattern:
    """Raise `ValueError` for what is no pattern, and for back references, look-behind, flags and possessive repeats."""
    try:
        re.compile(pattern)
        tokens = _tokens(pattern)
        node = _parse_alternation(tokens, MAX_NESTING)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if tokens:
        raise ValueError(f"{tokens[0].group()[:20]!r} is not understood here")
    return Pattern(node)


def _tokens(pattern: str) -> list[re.Match[str]]:
    tokens, start = [], 0
    while start < len(pattern):
        token = TOKEN.match(pattern, start)
        if token is None:
            raise ValueError(f"{pattern[start : start + 4]!r} is not understood")
        tokens.append(token)
        start = token.end()
    return tokens


def _parse_alternation(tokens: list[re.Match[str]], nesting: int) -> Node:
    """Take tokens off the front up to a closing bracket or the end."""
    if not nesting:
        raise ValueError(f"more than {MAX_NESTING} brackets within each other")
    branches = [_parse_sequence(tokens, nesting)]
    while tokens and tokens[0].lastgroup == "alternation":
        del tokens[0]
        branches.append(_parse_sequence(tokens, nesting))
    return _alternation(branches) if len(branches) > 1 else branches[0]


def _parse_sequence(tokens: list[re.Match[str]], nesting: int) -> Node:
    nodes: list[Node] = []
    while tokens and tokens[0].lastgroup in ("open", "anchor", "char"):
        node = _parse_item(tokens, nesting)
        if tokens and tokens[0].lastgroup == "quantifier":
            low, high = _bounds(tokens.pop(0))
            node = _repeat(node, low, high)
        nodes.append(node)
    return _sequence(nodes)


def _parse_item(tokens: list[re.Match[str]], nesting: int) -> Node:
    token = tokens.pop(0)
    text = token.group()
    if token.lastgroup == "anchor":
        return _anchor(re.compile(text))
    if token.lastgroup == "char":
        return _char(re.compile(text))
    node = _parse_alternation(tokens, nesting - 1)
    del tokens[0]  # the closing bracket: `re` has counted them
    return _lookahead(node, positive=text == "(?=") if text in ("(?=", "(?!") else node


def _bounds(token: re.Match[str]) -> tuple[int, int | None]:
    text = token.group().removesuffix("?") or "?"
    if text in BOUNDS:
        return BOUNDS[text]
    low, high = token["low"], token["high"]
    if not low and not high:
        raise ValueError(f"{text!r} is not understood")
    if not token["comma"]:
        return int(low), int(low)
    return int(low or 0), int(high) if high else None


def _char(accepted: re.Pattern[str]) -> Node:
    return lambda text: [*(2 << i if accepted.fullmatch(char) else 0 for i, char in enumerate(text)), 0]


def _anchor(accepted: re.Pattern[str]) -> Node:
    return lambda text: [1 << i if accepted.match(text, i) else 0 for i in range(len(text) + 1)]


def _lookahead(node: Node, *, positive: bool) -> Node:
    return lambda text: [1 << i if bool(ends) is positive else 0 for i, ends in enumerate(node(text))]


def _alternation(nodes: Sequence[Node]) -> Node:
    def ends(text: str) -> Ends:
        return [functools.reduce(int.__or__, row) for row in zip(*(node(text) for node in nodes), strict=True)]

    return ends


def _sequence(nodes: Sequence[Node]) -> Node:
    def ends(text: str) -> Ends:
        reached: Ends = _empty(text)
        for node in nodes:
            if not any(reached):
                break
            reached = _then(reached, node(text))
        return reached

    return ends


def _repeat(node: Node, low: int, high: int | None) -> Node:
    def ends(text: str) -> Ends:
        step, size = node(text), len(text)
        # A path of more steps than the text has characters stands still somewhere, and may do so once more or less.
        first = _power(step, min(low, size + 1), text)
        if high is None:
            return _then(first, _closure(step))
        optional = [ends | 1 << i for i, ends in enumerate(step)]
        return _then(first, _power(optional, min(high - low, size), text))

    return ends


def _closure(step: Ends) -> Ends:
    """Take the step any number of times: from the last position down, as no step leads back."""
    reached = [0] * len(step)
    for start in reversed(range(len(step))):
        reached[start] = 1 << start | _union(step[start] & ~(1 << start), reached)
    return reached


def _power(step: Ends, times: int, text: str) -> Ends:
    """Take the step so many times, by squaring."""
    result: Ends = _empty(text)
    while times:
        if times & 1:
            result = _then(result, step)
        times >>= 1
        step = _then(step, step) if times else step
    return result


def _then(first: Ends, second: Ends) -> Ends:
    return [second[i] if ends == 1 << i else _union(ends, second) for i, ends in enumerate(first)]


def _union(starts: int, ends: Ends) -> int:
    reached = 0
    while starts:
        lowest = starts & -starts
        reached |= ends[lowest.bit_length() - 1]
        starts ^= lowest
    return reached


def _empty(text: str) -> Ends:
    return [1 << i for i in range(len(text) + 1)]
