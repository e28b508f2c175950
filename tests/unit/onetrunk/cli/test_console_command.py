from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

from support.cli import Shell
from support.processes import importing
from support.servers import free_port

from store.errors import StoreNotFoundError


def test_console_shows_a_store_until_it_is_interrupted(shell: Shell):
    port = free_port()
    command = [sys.executable, "-m", "onetrunk", "console", str(shell.root), "--port", str(port)]
    process = subprocess.Popen(command, env=importing(), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"ready: open http://127.0.0.1:{port}/; Ctrl-C stops\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/console/tasks") as answer:
            assert "No task yet" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_console_names_a_store_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "onetrunk", "console", str(tmp_path / "none")]
    done = subprocess.run(command, env=importing(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(StoreNotFoundError.__name__)
    assert done.stderr.count("\n") == 1
