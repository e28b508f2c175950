"""What the headers of a request say, bounded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Scope

from serving.http.errors import TransferError
from serving.http.limits import HttpLimits
from serving.telemetry.request_record import REQUEST_START

MOST_WAITED_S = 600.0


@dataclass(frozen=True)
class RequestHeaders:
    """The headers by their names in lower case, the client's address, and what the body is said to be."""

    all: Mapping[bytes, bytes]
    client: str
    length: int | None

    @classmethod
    def read(cls, scope: Scope) -> RequestHeaders:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length")
        if length is not None and not (length.isdigit() and len(length) < 20):
            raise TransferError(
                400, "Bad Request", f"content-length {length[:40]!r} is not a number: send the body's bytes"
            )
        client = scope.get("client")
        return cls(headers, client[0] if client else "", None if length is None else int(length))

    @property
    def waited_s(self) -> float:
        """How long the request waited at the ingress, which says when it had all of it; 0 where nothing says so."""
        start = self.all.get(REQUEST_START, b"")
        if not (start.isdigit() and len(start) < 20):
            return 0.0
        waited_s = time.time() - int(start) / 1e6
        return waited_s if 0.0 < waited_s < MOST_WAITED_S else 0.0  # beyond it, a clock was set meanwhile

    @property
    def content_type(self) -> str:
        return self.all.get(b"content-type", b"").decode("latin-1")

    @property
    def encoding(self) -> str:
        return self.all.get(b"content-encoding", b"").decode("latin-1").strip().lower()


def check_headers(scope: Scope, limits: HttpLimits) -> None:
    """Raise `TransferError` where the headers and the target are larger than any client of ours needs."""
    nbytes = len(scope["query_string"]) + len(scope["path"])
    nbytes += sum(len(name) + len(value) for name, value in scope["headers"])
    if nbytes > limits.header_nbytes:
        message = f"headers and target take {nbytes:,} bytes, {limits.header_nbytes:,} are the most: send fewer"
        raise TransferError(431, "Request Header Fields Too Large", message, connection="close")
