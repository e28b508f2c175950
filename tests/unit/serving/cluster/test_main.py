"""The process that runs a server: a start that never ends is ended, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.processes import importing

from serving.cluster.plan import PYTHON, Replicas, ServerPlan

NEVER_READY = """
import subprocess, sys, time
from serving.cluster import main, own_ray

def start(plan, folder):
    started.append(subprocess.Popen(["sleep", "600"]))
    (folder / "file").write_text("")
    print(folder, started[0].pid, file=sys.__stderr__, flush=True)
    time.sleep(600)

started = []
main.log_to = lambda path: None
own_ray.start = start
main.START_S = 1.0
main.main()
"""


def test_a_server_that_is_never_ready_says_so_and_is_gone() -> None:
    plan = ServerPlan(
        applications={"/": {"device": "cpu"}}, host="127.0.0.1", port=1, replicas=Replicas(1, 1), ingress=PYTHON,
        name="onetrunk", affinity=False, ray_address=None,
    )  # fmt: skip
    command = [sys.executable, "-c", NEVER_READY, plan.to_json()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=importing(), **pipes) as process:
        process.wait(60)  # its standard input stays open, as long as the process that started it lives
        said, noted = process.stdout.read(), process.stderr.read()
    answer = json.loads(said)
    assert answer == {"error": "ServerError", "message": "the server is not ready after 1 s: start it again"}
    folder, child = noted.split()[-2:]
    assert not Path(folder).exists()
    assert not Path(f"/proc/{child}").exists()
