"""A shallower version's answer in the place of a refusal, where the alias names one for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from serving.prediction import Prediction
from serving.telemetry.request_record import RequestRecord
from store.errors import DeadlineError
from store.records.version import Version

Ask = Callable[[Sequence[Version]], Awaitable[list[Prediction]]]


async def answer_in_time(record: RequestRecord, ask: Ask) -> list[Prediction]:
    """Ask the versions that were chosen; where they would be too late, the shallower ones; mark what these answer."""
    try:
        answers = await ask(record.versions)
    except DeadlineError:
        if not record.degrade():
            raise
        answers = await ask(record.versions)
    return [
        replace(answer, degraded=True) if record.choice_of(index).degraded else answer
        for index, answer in enumerate(answers)
    ]
