"""Whether a port is free, checked before anything is started on it."""

from __future__ import annotations

import socket

from store.errors import PortTakenError


def check_port(host: str, port: int, *, remedy: str = "`port=`") -> None:
    """Raise `PortTakenError` where nothing can listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            problem = getattr(error, "strerror", None) or "a port is a number from 0 to 65535"
            raise PortTakenError(f"cannot listen on {host}:{port} ({problem}): choose another with {remedy}") from None


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
