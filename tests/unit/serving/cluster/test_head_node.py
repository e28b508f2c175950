from __future__ import annotations

import subprocess
import sys
import time

from serving.cluster import no_agent
from serving.cluster.head_node import _without_agents


def test_both_agents_are_replaced_and_nothing_else_is_changed():
    command = [
        "raylet",
        "--node_ip=1",
        "--dashboard_agent_command=python agent.py --x=1",
        "--runtime_env_agent_command=y",
    ]
    edited = _without_agents(command)
    assert edited[:2] == command[:2]
    assert [part.split("=")[0] for part in edited[2:]] == ["--dashboard_agent_command", "--runtime_env_agent_command"]
    assert all(part.endswith(f"-IS {no_agent.__file__}") for part in edited[2:])


def test_what_is_in_an_agents_place_ends_with_the_process_that_started_it():
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-IS', {no_agent.__file__!r}]).pid)"
    begin = time.monotonic()
    # Its standard output is the pipe that is read here: the end of it is the end of both.
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.strip().isdigit()
    assert time.monotonic() - begin < 20
