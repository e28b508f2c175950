"""The quantile of measured times, as the benchmarks and the load report it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], q: float) -> float:
    """Return the least value that at least the share q of the values does not exceed."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]
