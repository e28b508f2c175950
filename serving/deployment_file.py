"""The file that puts a server on a Ray cluster of somebody's own, checked before it is written."""

from __future__ import annotations

import urllib.parse

from serving.addresses import absolute_catalogue, absolute_store
from serving.cluster.config_file import config_file
from serving.config import ServeConfig
from serving.scheduling.scheduler import DEFAULT_SCHEDULE, check_schedule
from serving.server import check_prefix, count_replicas
from store.errors import InvalidSettingError

RAYS_PORTS = {6379: "GCS", 8265: "dashboard", 10001: "client server"}


def deployment_file(
    store_url: str,
    *,
    host: str = "0.0.0.0",
    port: int = 8000,
    grpc_port: int | None = None,
    catalogue: str | None = None,
    backbone: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    threads: int = 2,
    batch_invariant: bool = False,
    schedule: str = DEFAULT_SCHEDULE,
    rate_limit: float | None = None,
    replicas: int | tuple[int, int] = 2,
    name: str = "onetrunk",
    prefix: str = "/",
    keys: bool = True,
) -> str:
    """Return the text of the file for `serve deploy` and KubeRay; the store is not opened.

    The arguments are those of `serve`; Ray places a replica where as many cores as it has threads are free. Raises
    `InvalidSettingError` where Ray itself has the port, or where the file would hold the password of the catalogue.
    """
    check_schedule(schedule)
    check_ports(port, grpc_port)
    check_secrets(catalogue)
    counts = count_replicas(replicas, threads=threads, device=device)
    config = ServeConfig(
        store=absolute_store(store_url),
        catalogue=absolute_catalogue(catalogue),
        backbone=backbone,
        dtype=dtype,
        device=device,
        threads=threads,
        batch_invariant=batch_invariant,
        schedule=schedule,
        keys=keys,
        rate_limit=None if rate_limit is None else rate_limit / counts.most,
        grpc=None if grpc_port is None else f"{host}:{grpc_port}",
    )
    return config_file(config, host=host, port=port, replicas=counts, name=name, prefix=check_prefix(prefix))


def check_ports(port: int, grpc_port: int | None) -> None:
    """Raise where a process of Ray listens on the port of each cluster's head, or both are one."""
    for argument, number in (("port", port), ("grpc_port", grpc_port)):
        if number in RAYS_PORTS:
            raise InvalidSettingError(
                f"port {number} is that of Ray's {RAYS_PORTS[number]}: choose another with `{argument}=`"
            )
    if port == grpc_port:
        raise InvalidSettingError(f"port {port} cannot be that of HTTP and of gRPC: choose another with `grpc_port=`")


def check_secrets(catalogue: str | None) -> None:
    """Raise where the file would hold a password."""
    parts = urllib.parse.urlsplit(catalogue or "")
    if parts.password is not None or "password=" in parts.query:
        raise InvalidSettingError(
            "the catalogue's address has a password, which would stand in the file: leave it out, and give it to the "
            "nodes in PGPASSWORD, or in a file that PGPASSFILE names"
        )
