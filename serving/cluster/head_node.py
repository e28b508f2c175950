"""The node of a server's own Ray: GCS and raylet, without what serves Ray's page, its metrics and its environments.

The raylet starts two agents, ends where one of them ends, and does not start before the ports of both are known. Their
imports take as long as all the rest of Ray, and nothing here asks them for anything: a process that waits is in their
place, and the ports say that there is none.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._raylet import (  # type: ignore[attr-defined]  # it is compiled
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    RUNTIME_ENV_AGENT_PORT_NAME,
    persist_port,
)

from serving.cluster import no_agent
from serving.port import free_port

NO_PORT = -1


class HeadNode(Node):
    """A node whose raylet has no agents; the page and the job API, which `ray.init` starts in any case, are neither."""

    def start_api_server(self, **_: object) -> None:
        self._webui_url = ""

    def start_raylet(self, *arguments: Any, **settings: Any) -> None:
        ports = {
            METRICS_AGENT_PORT_NAME: NO_PORT,
            METRICS_EXPORT_PORT_NAME: NO_PORT,
            DASHBOARD_AGENT_LISTEN_PORT_NAME: NO_PORT,
            RUNTIME_ENV_AGENT_PORT_NAME: free_port(),  # this one must be a port: nothing listens there
        }
        for name, port in ports.items():
            persist_port(self._session_dir, self._node_id, name, port)
        with _starting_through(_without_agents):
            super().start_raylet(*arguments, **settings)


def _without_agents(command: Sequence[str]) -> list[str]:
    stand_in = shlex.join([sys.executable, "-IS", no_agent.__file__])
    return [re.sub(r"^(--(?:dashboard|runtime_env)_agent_command)=.*", rf"\1={stand_in}", part) for part in command]


@contextmanager
def _starting_through(edit: Callable[[Sequence[str]], list[str]]) -> Iterator[None]:
    """Let Ray start what it starts with the command as it is after the edit."""
    start = services.start_ray_process

    def started(command: Sequence[str], *arguments: Any, **settings: Any) -> Any:
        return start(edit(command), *arguments, **settings)

    services.start_ray_process = started
    try:
        yield
    finally:
        services.start_ray_process = start
