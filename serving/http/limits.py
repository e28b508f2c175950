"""What one server takes from its clients; docs/http.md lists the names with these defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpLimits:
    """Bounds on what is read and how long it may take; every one is checked before the work that it bounds."""

    header_nbytes: int = 16 << 10
    image_nbytes: int = 32 << 20
    json_nbytes: int = 4 << 20
    """The JSON of a request of the Open Inference Protocol, without the tensors after it."""
    images: int = 64
    """Images in one request."""
    bundle_nbytes: int = 256 << 20
    bundles: int = 4
    """Bundles that are received or imported at a time; each is a file meanwhile."""
    body_s: float = 60.0
    """From the first byte of a body to its last; a bundle has ten times as long."""
    chunk_s: float = 10.0
    """Between two pieces of a body."""
    bodies_nbytes: int = 256 << 20
    """Bodies in memory at a time."""
    bodies_of_a_key_nbytes: int = 128 << 20
    """The same of one API key; a server without keys has one budget for all."""
    stalled: int = 8
    """Small predictions that are not with the engine after a second."""
    rate_limit: float | None = None
    """Images a second of one API key, None for any number; a key that was quiet may send two seconds' at once."""
    unknown_keys: int = 64
    """Secrets that wait to be looked up for the first time."""
    unknown_keys_of_a_client: float = 20.0
    """Refused secrets a second from one address, after which unknown secrets from there are refused unseen."""
