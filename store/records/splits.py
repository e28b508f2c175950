"""An alias split among versions: who answers which share, who answers beside them unseen, and what ends it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from store.errors import FormatError, InvalidSettingError
from store.records.bounds import check_list, check_number, check_version
from store.records.events import LATEST
from store.records.refs import check_name

MOST_VERSIONS = 8
OVER, LEAST_OVER, MOST_OVER = 500, 10, 5_000
"""Requests that a rule looks at: by default, at least and at most."""
UNITS: Mapping[str, str] = {"errors": "%", "disagreement": "%", "p99_ms": ""}
"""What a rule may be about, and its unit: failed answers, a shadow's other labels, the 99th percentile of the time."""
SHARE = re.compile(r"([1-9][0-9]{0,8})=([0-9]{1,3}(?:\.[0-9]{1,6})?)%?")
RULE = re.compile(r"\s*(?P<metric>[a-z0-9_]+)\s*>\s*(?P<above>\d{1,9}(\.\d{1,6})?)\s*(?P<unit>%?)\s*")


@dataclass(frozen=True)
class SplitRule:
    """Ends a split once a candidate's metric is above this: `errors` and `disagreement` in percent, `p99_ms`."""

    metric: str
    above: float

    @classmethod
    def parse(cls, text: str) -> SplitRule:
        """Read `errors>1%`, `disagreement>5%` or `p99_ms>250`."""
        match = RULE.fullmatch(text) if isinstance(text, str) and len(text) <= 80 else None
        if match is None or match["unit"] not in ("", UNITS.get(match["metric"], "?")):
            raise InvalidSettingError(
                f"rule {text!r:.80} is not understood: write 'errors>1%', 'disagreement>5%' or 'p99_ms>250'"
            )
        return cls(match["metric"], float(match["above"]))

    def __str__(self) -> str:
        return f"{self.metric}>{self.above:g}{UNITS.get(self.metric, '')}"


@dataclass(frozen=True)
class SplitOptions:
    """What a split has beside its shares.

    `shadow` is a version and the percent of the requests for which it is asked too. `overload` is a shallower version
    with a certificate. `rules`, such as `errors>1%`, `disagreement>5%` or `p99_ms>250`, are judged by the last `over`
    requests of a candidate, which becomes the alias's version with `promote` if it keeps them.
    """

    shadow: tuple[int, float] | None = None
    overload: int | None = None
    rules: tuple[str, ...] = ()
    over: int = OVER
    promote: bool = False


NO_OPTIONS = SplitOptions()


@dataclass(frozen=True)
class AliasSplit:
    """How the requests for an alias are divided; it holds until the alias moves, or the split is ended.

    `shares` are versions with percents that add up to 100; the first is the stable one, which the alias names. The
    `shadow` version is asked too for a percent of the requests, and its answer is compared and never sent. `overload`
    is the shallower version that answers where the chosen one could not in time. Once a candidate breaks a rule within
    its last `over` requests, a server ends the split; with `promote`, a candidate that breaks none in `over` requests
    becomes the alias's version. `number` is the event of the history that made the split.
    """

    task: str
    alias: str
    shares: tuple[tuple[int, float], ...]
    shadow: tuple[int, float] | None = None
    overload: int | None = None
    rules: tuple[SplitRule, ...] = ()
    over: int = OVER
    promote: bool = False
    number: int = 0

    def __post_init__(self) -> None:
        check_name(self.alias, "alias")
        if self.alias == LATEST:
            raise InvalidSettingError(f"alias {LATEST!r} follows every publish: split another, such as prod")
        self._check_shares()
        self._check_shadow()
        self._check_rules()
        if self.overload is not None:
            check_version(self.overload)
            if self.overload == self.stable:
                raise InvalidSettingError(
                    f"version {self.overload} is the stable one: name a shallower one for overload"
                )
        if len(self.shares) == 1 and self.shadow is None and self.overload is None:
            raise InvalidSettingError(
                f"version {self.stable} alone does not split an alias: give another a share, a shadow or overload, or "
                "move the alias with `store.set_alias(task, alias, version)`"
            )

    @property
    def ref(self) -> str:
        return f"{self.task}@{self.alias}"

    @property
    def stable(self) -> int:
        """The version that the alias names, and that all requests go back to."""
        return self.shares[0][0]

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that the split may ask, each once."""
        others = [number for number in (self.shadow and self.shadow[0], self.overload) if number is not None]
        return tuple(dict.fromkeys([number for number, _ in self.shares] + others))

    @property
    def answering(self) -> tuple[int, ...]:
        """The versions whose answers are sent."""
        return tuple(number for number in self.versions if number in dict(self.shares) or number == self.overload)

    def choose(self, key: str) -> int:
        """Return the version that answers a request with this key: the same key always gets the same one.

        Candidates take the low end of the keys: where the share of the only one grows, no key goes back from it.
        """
        at, end = position(self.ref, key), 0.0
        for number, percent in self.shares[1:]:
            end += percent
            if at < end:
                return number
        return self.stable

    def is_shadowed(self, key: str) -> bool:
        """Say whether the shadow is asked too for a request with this key; it does not depend on who answers."""
        return self.shadow is not None and position(f"{self.ref} shadow", key) < self.shadow[1]

    def to_details(self) -> dict[str, object]:
        """Return the split as the details of its event; what is not set is left out."""
        details: dict[str, object] = {"shares": [list(share) for share in self.shares]}
        if self.shadow is not None:
            details["shadow"] = list(self.shadow)
        if self.overload is not None:
            details["overload"] = self.overload
        if self.rules:
            details |= {"rules": [str(rule) for rule in self.rules], "over": self.over, "promote": self.promote}
        return details

    @classmethod
    def from_details(cls, task: str, alias: str, details: Mapping[str, object], *, number: int) -> AliasSplit:
        """Read what `to_details` made; raise `FormatError` where it was changed."""
        try:
            shares = cast("list[tuple[int, float]]", details["shares"])
            shadow = cast("tuple[int, float] | None", details.get("shadow"))
            return cls(
                task,
                alias,
                tuple((version, percent) for version, percent in shares),
                None if shadow is None else (shadow[0], shadow[1]),
                cast("int | None", details.get("overload")),
                tuple(SplitRule.parse(rule) for rule in cast("list[str]", details.get("rules", []))),
                cast(int, details.get("over", OVER)),
                bool(details.get("promote", False)),
                number,
            )
        except (KeyError, TypeError, ValueError, IndexError):
            raise FormatError(
                f"event {number} splits {task}@{alias} in a way that is not understood: upgrade onetrunk, or end the "
                "split with `end_split(store, task, alias)`"
            ) from None

    def to_dict(self) -> dict[str, object]:
        """Return the split in JSON, and in words."""
        return {
            "task": self.task,
            "alias": self.alias,
            "shares": [{"version": number, "percent": percent} for number, percent in self.shares],
            "shadow": None if self.shadow is None else {"version": self.shadow[0], "percent": self.shadow[1]},
            "overload": self.overload,
            "rules": [str(rule) for rule in self.rules],
            "over": self.over if self.rules else None,
            "promote": self.promote,
            "words": self.words,
        }

    @property
    def words(self) -> str:
        """The split in one line for people."""
        parts = [", ".join(f"version {number} answers {percent:g}%" for number, percent in self.shares)]
        if self.shadow is not None:
            parts.append(f"version {self.shadow[0]} shadows {self.shadow[1]:g}%")
        if self.overload is not None:
            parts.append(f"version {self.overload} under overload")
        if self.rules:
            rules = " or ".join(map(str, self.rules))
            parts.append(f"back to version {self.stable} if {rules} within {self.over} requests")
        if self.promote:
            parts.append(f"version {self.shares[1][0]} for all after {self.over} good ones")
        return "; ".join(parts)

    def _check_shares(self) -> None:
        check_list("shares", self.shares)
        numbers = [number for number, _ in self.shares]
        for number, percent in self.shares:
            check_version(number)
            _check_percent(f"version {number}", percent)
        if not 1 <= len(numbers) <= MOST_VERSIONS or len(set(numbers)) < len(numbers):
            raise InvalidSettingError(
                f"versions {', '.join(map(str, numbers[:20])) or 'none'}: name 1 to {MOST_VERSIONS}, each once"
            )
        total = sum(Fraction(str(percent)) for _, percent in self.shares)
        if total != 100:
            raise InvalidSettingError(f"the shares add up to {float(total):g}%: they must be 100% together")

    def _check_shadow(self) -> None:
        if self.shadow is None:
            return
        check_version(self.shadow[0])
        _check_percent(f"shadow {self.shadow[0]}", self.shadow[1])
        if self.shadow[0] == self.stable:
            raise InvalidSettingError(f"version {self.stable} is the stable one: another must be its shadow")

    def _check_rules(self) -> None:
        check_list("rules", self.rules)
        check_number("over", self.over, least=LEAST_OVER, most=MOST_OVER)
        metrics = [rule.metric for rule in self.rules]
        unknown = [metric for metric in metrics if metric not in UNITS]
        if unknown or len(set(metrics)) < len(metrics):
            raise InvalidSettingError(
                f"rules about {', '.join(metrics)[:80]}: name each of {', '.join(UNITS)} once at most"
            )
        if metrics and len(self.shares) == 1 and self.shadow is None:
            raise InvalidSettingError("rules are about candidates: give another version a share, or a shadow")
        if "disagreement" in metrics and self.shadow is None:
            raise InvalidSettingError("disagreement is between a shadow and the answer: name a shadow")
        if self.promote and (len(self.shares) != 2 or not self.rules):
            raise InvalidSettingError("promotion is of one candidate that keeps its rules: give one, and a rule")


def parse_shares(texts: Sequence[str]) -> dict[int, float]:
    """Read `3=90` and `4=10`: versions and percents, in their order; raise where one is named twice."""
    check_list("shares", texts)
    pairs = [parse_share(text) for text in texts]
    shares = dict(pairs)
    if len(shares) < len(pairs):
        raise InvalidSettingError(f"shares {' '.join(texts)!r:.80} name a version twice: give each one share")
    return shares


def parse_share(text: str) -> tuple[int, float]:
    """Read `4=10`: a version and a percent."""
    match = SHARE.fullmatch(text)
    if match is None:
        raise InvalidSettingError(f"share {text!r:.80} is not VERSION=PERCENT: write for example 4=10")
    return int(match[1]), float(match[2])


def position(salt: str, key: str) -> float:
    """Return where a key lies, from 0 up to 100: evenly, and the same in every process."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return 100 * int.from_bytes(digest, "big") / 2**56


def _check_percent(what: str, percent: float) -> None:
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise InvalidSettingError(f"{what} has share {percent!r:.40}: give a percent from 0 to 100")
