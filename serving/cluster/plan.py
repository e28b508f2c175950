"""What a server is to run, passed as JSON to the process that runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

HAPROXY, PYTHON = "haproxy", "python"
HELD_BY_A_THREAD, HELD_BY_A_GPU = 16, 512
"""Small predictions in a replica: enough for full batches, few enough for its loop to look at each one at once."""

MAX_WAIT_S = 5.0


@dataclass(frozen=True)
class Replicas:
    """How many replicas an application has; where the numbers differ, Ray chooses by the load."""

    least: int
    most: int

    @property
    def fixed(self) -> bool:
        return self.least == self.most


@dataclass(frozen=True)
class ServerPlan:
    """The applications by route prefix, each the fields of a `ServeConfig`, and how they are reached."""

    applications: Mapping[str, Mapping[str, object]]
    host: str
    port: int
    ingress: str
    replicas: Replicas
    name: str
    affinity: bool
    ray_address: str | None
    log: int | None = None
    """The descriptor to which the lines of requests go, None for nowhere."""
    held: int = HELD_BY_A_THREAD
    """Small predictions that HAProxy lets a replica have at a time."""
    max_wait_s: float = MAX_WAIT_S
    """How long the others may wait there for a replica."""

    def name_of(self, prefix: str) -> str:
        """Return the name of an application in Ray: the server's own, and the prefix where there are several."""
        return self.name if len(self.applications) == 1 else f"{self.name}{prefix.rstrip('/').replace('/', '-')}"

    def with_log(self, path: str) -> ServerPlan:
        """Return the plan with the file that its replicas write the lines of requests to."""
        return replace(self, applications={prefix: {**f, "log": path} for prefix, f in self.applications.items()})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerPlan:
        fields = json.loads(text)
        return cls(**{**fields, "replicas": Replicas(**fields["replicas"])})
