from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cluster import fork_client
from serving.cluster.fork_client import SETTING, program_of
from serving.cluster.fork_server import Worker, _read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray's own way is taken elsewhere")
ARGUMENTS = ["-s", "worker.py", "--node-id=1", "--language=PYTHON", "--worker-id=2"]


def run_client(*arguments: str, path: str) -> subprocess.Popen[str]:
    command = [sys.executable, fork_client.__file__, *arguments]
    return subprocess.Popen(
        command, env={**os.environ, SETTING: path, "OF_THE_WORKER": "yes"}, stdout=subprocess.PIPE, text=True
    )


def test_a_worker_comes_over_with_its_program_environment_folder_and_files(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client = run_client(*ARGUMENTS, path=str(tmp_path / "s"))
        connection, _ = listener.accept()
        with connection:
            worker = _read(connection)
        assert isinstance(worker, Worker)
        os.write(worker.files[1], b"its standard output")
        for file in worker.files:
            os.close(file)
        assert client.communicate() == ("its standard output", None)
    assert worker.arguments == ["worker.py", "--node-id=1", "--worker-id=2"]
    assert worker.environment["OF_THE_WORKER"] == "yes"
    assert worker.folder == str(Path.cwd())


def test_a_client_that_ends_before_it_has_said_all_is_no_worker():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        socket.send_fds(theirs, [b"{"], [0, 1, 2])
        theirs.close()
        assert _read(ours) is None


def test_without_a_server_the_worker_starts_as_ray_starts_it(tmp_path):
    (tmp_path / "worker.py").write_text("import sys; print(sys.argv[1:])")
    client = run_client(str(tmp_path / "worker.py"), "--a=1", "--language=PYTHON", path=str(tmp_path / "nobody"))
    assert client.communicate()[0] == "['--a=1']\n"


@pytest.mark.parametrize("flags", [[], ["-S"], ["-S", "-s"]])
def test_flags_of_python_and_what_is_for_rays_own_program_are_left_out(flags):
    assert program_of([*flags, "worker.py", "--language=PYTHON", "--a=1"]) == ["worker.py", "--a=1"]


FORKS = """
import os, ray, threading
from serving.cluster.fork_server import Worker, _fork

def draw():
    print(ray.ObjectRef.from_random().hex(), flush=True)

ray.ObjectRef.from_random()  # as what a worker imports does: from here on forks inherit the numbers
for _ in range(3):
    if _fork(Worker([], {}, "", [])):
        for _ in range(8):
            draw()
        for _ in range(50):
            thread = threading.Thread(target=draw)
            thread.start()
            thread.join()
        os._exit(0)
    os.wait()
"""


def test_no_two_forks_draw_the_same_ids_from_rays_random_numbers_in_any_thread():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True)
    drawn = done.stdout.split()
    assert len(drawn) == 3 * (8 + 50)
    assert len(set(drawn)) == len(drawn)
