"""What is known of one HTTP request, noted on its way through the server."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Protocol, cast

from serving.runtime.choices import Choice
from serving.runtime.request_times import RequestTimes
from serving.telemetry.request_ids import clean_id
from store.records.version import Version
from store.registry.tenant_store import TenantStore

KEY = "onetrunk.record"
SPLIT_KEY = b"x-split-key"
REQUEST_START = b"x-request-start"
"""When the ingress had all of a small prediction, in microseconds: from then on it waited for a replica."""
OPERATOR, ANYONE, UNKNOWN = "(operator)", "(anyone)", "(unknown)"
"""In the place of a tenant, whose name has no parentheses: keys without one, no keys, no valid key."""


class RecordedSpan(Protocol):
    """A trace's span of the whole request."""

    @property
    def traceparent(self) -> bytes: ...


class RequestRecord:
    """Written and read by the event loop alone, but for `times`."""

    __slots__ = (
        "at", "begun", "caller", "cause", "choices", "has_new_id", "has_place", "head_s", "id", "key", "method", "path",
        "problem", "received", "seconds", "sent", "span", "status", "times", "traceparent",
    )  # fmt: skip

    def __init__(self, scope: MutableMapping[str, Any], path: str) -> None:
        given = request_id = key = None
        self.has_place = False
        """Whether it has one of the places in this replica that the ingress gives to small predictions."""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                given = value
            elif name == SPLIT_KEY:
                key = value
            elif name == REQUEST_START:
                self.has_place = True
        self.id = clean_id(request_id)
        self.has_new_id = request_id is None or request_id != self.id.encode()
        self.key = self.id if key is None else key.decode("latin-1")
        """Which version of a split alias answers depends on it alone."""
        self.traceparent: bytes | None = given
        self.begun = time.perf_counter()
        self.at = time.time()
        self.method: str = scope["method"]
        self.path = path
        self.caller: TenantStore | None = None
        self.choices: Sequence[Choice] = ()
        self.times: list[RequestTimes] = []
        self.received = self.sent = self.status = 0
        self.seconds = 0.0
        self.head_s: float | None = None
        self.span: RecordedSpan | None = None
        """Where the request is recorded as a trace."""
        self.cause: BaseException | None = None
        """Why it has no answer, as the operator may read it."""
        self.problem = ("", "")
        """What the caller reads of it: its kind and the message."""

    def begin_image(self) -> RequestTimes:
        """Count an image, and return what its times are noted in."""
        times = RequestTimes()
        self.times.append(times)
        return times

    @property
    def versions(self) -> list[Version]:
        """Those that were asked, one for each task."""
        return [choice.version for choice in self.choices]

    def choice_of(self, index: int) -> Choice:
        """Return the choice of an answer: of several images, they have one."""
        return self.choices[index if len(self.choices) > 1 else 0]

    def degrade(self) -> bool:
        """Choose the shallower versions where there are some, and return whether there are; the images begin again."""
        before, self.choices = self.choices, [choice.degrade() for choice in self.choices]
        self.times.clear()
        return any(now is not then for now, then in zip(self.choices, before, strict=True))

    @property
    def images(self) -> int:
        return len(self.times)

    @property
    def is_with_engine(self) -> bool:
        """Whether all its images are decoded and wait for the engine or are there."""
        return bool(self.times) and all(times.queued for times in self.times)

    @property
    def tenant(self) -> str:
        if self.caller is None:
            return UNKNOWN
        key = self.caller.key
        return key.tenant or (OPERATOR if key.id else ANYONE)

    @property
    def engine_s(self) -> float:
        return sum(times.engine_s for times in self.times)

    def stages(self) -> Mapping[str, float]:
        """Return the seconds of each stage; of several images, the longest."""
        if not self.times:
            return {}
        stages = {"receive": self.times[0].submitted - self.begun}
        for times in self.times:
            for stage, seconds in times.stages().items():
                stages[stage] = max(seconds, stages.get(stage, 0.0))
        if self.head_s is not None:
            stages["head"] = self.head_s
        return stages

    def answered(self) -> None:
        """Note that the answer is made: what passed since the last logits was spent on it."""
        finished = [times.finished for times in self.times if times.finished is not None]
        if finished:
            self.head_s = time.perf_counter() - max(finished)


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """Return the record that the API put into the scope."""
    return cast(RequestRecord, scope[KEY])
