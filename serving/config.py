"""What one application serves, as `deploy/serve.yaml` and `serve` give it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serving.scheduling.scheduler import DEFAULT_SCHEDULE


class ServeConfig(BaseModel):
    """Arguments of the application; with `keys`, every request needs an API key."""

    model_config = ConfigDict(extra="forbid")

    store: str
    catalogue: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    batch_invariant: bool = False
    schedule: str = DEFAULT_SCHEDULE
    keys: bool = False
    rate_limit: float | None = None
    """Images a second of one API key, or of all callers without keys, that this replica answers at most."""
    session_secret: str | None = Field(default=None, repr=False)
    """Signs the sessions of the console; every replica needs the same. Made when the application starts."""
