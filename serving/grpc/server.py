"""A gRPC server in a replica's process, on its event loop; the replicas of a machine listen on one port together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from serving.grpc.service import Service
from serving.http.auth import AppState
from store.errors import PortTakenError

MOST_CALLS = 1024
STOP_S = 5.0
AGE_MS, AGE_GRACE_MS = 60_000, 120_000
"""A connection stays with one replica; after this time its client connects again, to any of them."""
IDENTITY = 1  # of compressions, as a set of bits: what a compressed message expands to has no bound in gRPC


@asynccontextmanager
async def grpc_server(state: AppState, *, address: str) -> AsyncIterator[int]:
    """Answer at the address until the block ends, then end what was begun; the block gets the port."""
    limits = state.limits
    options = {
        "grpc.so_reuseport": 1,
        "grpc.max_receive_message_length": limits.image_nbytes + limits.header_nbytes,
        "grpc.max_metadata_size": limits.header_nbytes,
        "grpc.absolute_max_metadata_size": 2 * limits.header_nbytes,
        "grpc.max_connection_age_ms": AGE_MS,
        "grpc.max_connection_age_grace_ms": AGE_GRACE_MS,
        "grpc.compression_enabled_algorithms_bitset": IDENTITY,
    }
    server = grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=MOST_CALLS)
    server.add_generic_rpc_handlers((Service(state),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortTakenError(f"gRPC cannot listen on {address} ({str(error)[:200]}): choose another port") from None
    await server.start()
    try:
        yield port
    finally:
        await server.stop(STOP_S)
