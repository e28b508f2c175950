"""A Ray that others run and RAY_ADDRESS names: joined, never stopped."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress

import ray

from serving.cluster.plan import ServerPlan
from store.errors import ConflictError, ServerError

CONNECT_S = 5.0
SETTING, OTHERWISE = "RAY_ADDRESS=", "unset it to start a Ray of the server's own"
"""How a message names the address of a server's Ray, and what else can be done."""


def check_address(address: str, *, setting: str = SETTING, otherwise: str = OTHERWISE) -> None:
    """Raise `ServerError` where nothing listens at the address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return
    except (OSError, ValueError) as error:
        raise ServerError(f"no Ray at {setting}{address} ({error}): correct it, or {otherwise}") from None


def join(address: str, *, setting: str = SETTING, otherwise: str = OTHERWISE) -> None:
    if address != "auto":
        check_address(address, setting=setting, otherwise=otherwise)
    os.environ.setdefault("RAY_gcs_rpc_server_connect_timeout_s", "5")
    try:
        ray.init(address=address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ServerError(f"cannot join the Ray at {setting}{address}: {first}") from None


def check_names(plan: ServerPlan, taken: dict[str, str | None]) -> None:
    """Raise `ConflictError` where an application there has this name or this prefix; `taken` is name -> prefix."""
    for prefix in plan.applications:
        name = plan.name_of(prefix)
        if name in taken:
            raise ConflictError(f"the cluster serves an application {name!r}: choose another name with `name=`")
        for other, its_prefix in taken.items():
            if its_prefix == prefix:
                raise ConflictError(
                    f"application {other!r} of the cluster has the prefix {prefix!r}: choose another with `prefix=`"
                )


def leave() -> None:
    with suppress(Exception):  # the cluster may be gone, and nothing of ours is left there
        ray.shutdown()
