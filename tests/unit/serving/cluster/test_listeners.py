from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from serving.cluster.listeners import Listener, listeners_of_server
from serving.port import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

SERVER = """
import socket, sys, time
one = socket.create_server(("127.0.0.1", int(sys.argv[1])))
other = socket.create_server(("::1", int(sys.argv[2])), family=socket.AF_INET6)
print("listens", flush=True)
sys.stdin.read()
"""


def test_every_address_of_a_server_is_listed_by_the_port_of_one_of_them():
    ports = free_port(), free_port()
    command = [sys.executable, "-c", SERVER, *map(str, ports), "serving.cluster.main"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = listeners_of_server(ports[0])
        process.stdin.close()
    assert set(found) == {
        Listener("127.0.0.1", ports[0], "onetrunk serve"),
        Listener("::1", ports[1], "onetrunk serve"),
    }
    assert str(found[-1]) == f"[::1]:{ports[1]} onetrunk serve"


def test_a_port_of_another_program_or_of_none_has_no_server():
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert listeners_of_server(other.getsockname()[1]) == []
    assert listeners_of_server(free_port()) == []
