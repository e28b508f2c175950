"""What the headers of a request say, bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Scope

from serving.http.errors import TransferError
from serving.http.limits import HttpLimits


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
