"""A split divides requests by their keys: in the shares that it says, and the same key always alike."""

from __future__ import annotations

import json
import uuid
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import FormatError, InvalidSettingError
from store.records.splits import AliasSplit, SplitRule, parse_share, parse_shares

KEYS = 10_000


def split(*shares: tuple[int, float], **options: object) -> AliasSplit:
    return AliasSplit("flowers", "prod", shares, **options)


@st.composite
def shares_of_several(draw: st.DrawFn) -> list[tuple[int, float]]:
    """Between two and five versions, whose percents add up to 100."""
    ends = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=4)))
    percents = [end - start for start, end in zip([0, *ends], [*ends, 100], strict=True)]
    return [(number, float(percent)) for number, percent in enumerate(percents, 1)]


@settings(max_examples=25, derandomize=True, deadline=None)  # two points are four deviations: no seed may be unlucky
@given(shares=shares_of_several(), seed=st.uuids(), users=st.booleans())
def test_of_ten_thousand_requests_each_version_answers_its_share_within_two_points(
    shares: list[tuple[int, float]], seed: uuid.UUID, users: bool
) -> None:
    made = AliasSplit(f"t{seed}", "prod", tuple(shares), shadow=(9, 25.0))
    keys = [f"user-{number}" if users else uuid.uuid5(seed, str(number)).hex for number in range(KEYS)]
    answered = Counter(map(made.choose, keys))
    for number, percent in shares:
        assert abs(100 * answered[number] / KEYS - percent) < 2
    shadowed = [key for key in keys if made.is_shadowed(key)]
    assert abs(100 * len(shadowed) / KEYS - 25) < 2
    for number, percent in shares:  # who is shadowed does not depend on who answers
        if percent >= 20:
            assert abs(100 * sum(made.choose(key) == number for key in shadowed) / len(shadowed) - percent) < 5


def test_a_key_keeps_its_version_and_a_growing_candidate_keeps_its_keys() -> None:
    keys = [f"user-{number}" for number in range(2000)]
    small, large = split((3, 90), (4, 10)), split((3, 60), (4, 40))
    assert [small.choose(key) for key in keys] == [small.choose(key) for key in keys]
    of_small = {key for key in keys if small.choose(key) == 4}
    assert of_small < {key for key in keys if large.choose(key) == 4}
    other = AliasSplit("flowers", "beta", ((3, 90), (4, 10)))
    assert of_small != {key for key in keys if other.choose(key) == 4}


def test_a_share_of_nothing_is_never_chosen_and_one_of_all_always() -> None:
    assert {split((3, 100), (4, 0)).choose(str(key)) for key in range(1000)} == {3}
    assert {split((3, 0), (4, 100)).choose(str(key)) for key in range(1000)} == {4}


@pytest.mark.parametrize(
    ("shares", "options", "message"),
    [
        (((3, 90), (4, 11)), {}, "add up to 101%"),
        (((3, 90), (4, float("nan"))), {}, "give a percent from 0 to 100"),
        (((3, 50), (3, 50)), {}, "each once"),
        (((3, 100),), {}, "alone does not split an alias"),
        (((3, 100),), {"shadow": (3, 10)}, "is the stable one"),
        (((3, 100),), {"shadow": (4, 101)}, "give a percent from 0 to 100"),
        (((3, 100),), {"overload": 3}, "name a shallower one"),
        (((0, 100),), {"overload": 3}, "version 0 is not a whole number"),
        (((3, 100),), {"overload": 4, "rules": (SplitRule("errors", 1),)}, "rules are about candidates"),
        (((3, 90), (4, 10)), {"rules": (SplitRule("disagreement", 1),)}, "name a shadow"),
        (((3, 90), (4, 10)), {"rules": (SplitRule("cost", 1),)}, "name each of errors, disagreement, p99_ms once"),
        (((3, 90), (4, 10)), {"rules": (SplitRule("errors", 1),) * 2}, "once at most"),
        (((3, 90), (4, 10)), {"promote": True}, "give one, and a rule"),
        (((3, 90), (4, 10)), {"over": 3}, "over 3 is not a whole number from 10"),
        (tuple((number, 10) for number in range(1, 11)), {}, "name 1 to 8"),
    ],
)
def test_a_split_that_cannot_be_is_refused(shares: tuple[tuple[int, float], ...], options: dict, message: str) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        split(*shares, **options)


def test_latest_which_follows_every_publish_is_not_split() -> None:
    with pytest.raises(InvalidSettingError, match="split another, such as prod"):
        AliasSplit("flowers", "latest", ((1, 50), (2, 50)))


def test_a_split_reads_back_from_its_event_and_says_itself_in_words() -> None:
    rules = (SplitRule.parse("errors > 1 %"), SplitRule.parse("p99_ms>250"))
    made = split((3, 90.0), (4, 10.0), shadow=(5, 2.5), overload=2, rules=rules, over=100, promote=True, number=7)
    details = json.loads(json.dumps(made.to_details()))
    assert AliasSplit.from_details("flowers", "prod", details, number=7) == made
    assert made.versions == (3, 4, 5, 2)
    assert made.answering == (3, 4, 2)
    assert made.words == (
        "version 3 answers 90%, version 4 answers 10%; version 5 shadows 2.5%; version 2 under overload; "
        "back to version 3 if errors>1% or p99_ms>250 within 100 requests; version 4 for all after 100 good ones"
    )


@pytest.mark.parametrize("details", [{}, {"shares": 3}, {"shares": [[3]]}, {"shares": [[3, 100], [4, 100]]}])
def test_an_event_that_is_no_split_is_a_typed_error(details: dict) -> None:
    with pytest.raises(FormatError, match="event 7 splits flowers@prod in a way that is not understood"):
        AliasSplit.from_details("flowers", "prod", details, number=7)


def test_shares_and_rules_are_read_as_people_write_them() -> None:
    assert parse_shares(["3=90", "4=10%"]) == {3: 90.0, 4: 10.0}
    for text in ("4", "4=", "=10", "four=10", "4=-1", "4=1e2", "04=10"):
        with pytest.raises(InvalidSettingError, match="is not VERSION=PERCENT"):
            parse_share(text)
    with pytest.raises(InvalidSettingError, match="name a version twice"):
        parse_shares(["3=50", "3=50"])
    for text in ("errors", "errors>", "errors>1ms", "p99_ms>5%", "cost>1%", "errors<1%", "errors>-1%"):
        with pytest.raises(InvalidSettingError, match="is not understood"):
            SplitRule.parse(text)
