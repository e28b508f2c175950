"""What the ingress refused before a replica saw it, as the server's own process counts it for all replicas."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

SETTING = "ONETRUNK_REFUSALS"
"""Names the file with the counts; without it the ingress is another's, as on a shared cluster."""

Series = tuple[str, str]

REASONS: Mapping[Series, tuple[str, str]] = {
    ("400", "malformed"): ("Bad Request", "the request is not valid HTTP/1.1, or its head is too large"),
    ("404", "no_path"): ("Not Found", "no application is under this path"),
    ("408", "slow_client"): ("Request Timeout", "the head, or a small body, did not come in time"),
    ("503", "no_chance"): ("OverloadedError", "it would have waited longer than it may, and was refused at once"),
    ("503", "no_place"): ("OverloadedError", "no replica had a place for it in time"),
    ("503", "no_replica"): ("OverloadedError", "no replica was there, or took the connection"),
    ("503", "replica_lost"): ("OverloadedError", "the replica ended before it answered"),
    ("503", "replica_late"): ("OverloadedError", "the replica did not answer in time"),
    ("other", "other"): ("Error", "the ingress answered by itself"),
}
"""Every series that there can be, with the kind and the cause of its lines in the log."""


def read_refusals() -> Mapping[Series, int]:
    """Return how often each was refused; nothing where the ingress is not ours."""
    if not (path := os.environ.get(SETTING)):
        return {}
    try:
        counts = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):  # none has been written yet
        counts = {}
    return {series: int(counts.get(" ".join(series), 0)) for series in REASONS}


def write_refusals(counts: Mapping[Series, int], path: Path) -> None:
    """Put the counts in the place of those before, at once for every reader."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({" ".join(series): count for series, count in counts.items()}), "utf-8")
    new.replace(path)
