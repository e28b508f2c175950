"""Whether a port is free, checked before anything is started on it."""

from __future__ import annotations

import socket

from store.errors import PortTakenError


def check_port(host: str, port: int) -> None:
    """Raise `PortTakenError` where nothing can listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another with `port=`"
            ) from None
