"""When a request is sent again: as long as the server asks for, and less often the more often it refuses."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

RETRIED = (429, 503)
FIRST_WAIT_S, MOST_WAIT_S = 0.25, 30.0


@dataclass(frozen=True)
class Retries:
    """Send a refused request again at most so often; `Retry-After` beyond half a minute is not waited for."""

    most: int

    def wait_s(self, status: int, headers: Mapping[str, str], attempt: int) -> float | None:
        """Return how long to wait after attempt 0, 1, … before the next one; None where there is none."""
        if status not in RETRIED or attempt >= self.most:
            return None
        asked_s = seconds_of(headers.get("retry-after"))
        if asked_s > MOST_WAIT_S:
            return None
        # Clients that were refused together do not come back together.
        return max(asked_s, min(MOST_WAIT_S, FIRST_WAIT_S * 2.0**attempt)) * random.uniform(1.0, 1.25)


def seconds_of(retry_after: str | None) -> float:
    """Return the seconds that the header asks for, given as such or as a date; 0 where it says nothing."""
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdigit():
        return float(retry_after[:20])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
