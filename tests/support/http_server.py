"""`python -m support.http_server URL PORT [CATALOGUE]`: the API over a store, in a process that a test may disturb.

SIGUSR1 and SIGUSR2 step its clock two hours forward and back.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from support.processes import importing
from support.servers import free_port

START_S = 60.0
STEP_S = 7200.0


@dataclass(frozen=True)
class Answer:
    """The status, the JSON and the headers of a reply, and how long it took."""

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str]
    seconds: float


@dataclass
class HttpServer:
    """A server in another process."""

    port: int
    process: subprocess.Popen[bytes]
    image: bytes

    def predict(self, ref: str) -> Answer:
        return self.ask("POST", f"/v1/predict/{ref}?logits=true", self.image)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body=body)
            response = connection.getresponse()
            parsed = json.loads(response.read())
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, parsed, headers, time.monotonic() - start)

    def limit_files(self, nbytes: int) -> None:
        """Let no file of the server's grow beyond this, as on a full disk."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (nbytes, hard))

    def until(self, ref: str, status: int, *, limit_s: float = 30.0) -> float:
        """Ask until the status is this; return how long that took."""
        start = time.monotonic()
        while (answer := self.predict(ref)).status != status:
            assert time.monotonic() - start < limit_s, answer
            time.sleep(0.02)
        return time.monotonic() - start


@dataclass
class Load:
    """A client that asks for one task, again and again, during a block."""

    server: HttpServer
    ref: str
    answers: list[Answer] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            try:
                self.answers.append(self.server.predict(self.ref))
            except OSError as error:
                self.failures.append(error)

    def check(self, expected: Answer, *, slowest_s: float) -> None:
        """Assert that all was answered, as before, and in time."""
        assert self.failures == []
        assert len(self.answers) > 5
        assert {answer.status for answer in self.answers} == {200}
        assert all(answer.body == expected.body for answer in self.answers)
        assert max(answer.seconds for answer in self.answers) < slowest_s


@contextlib.contextmanager
def http_server(url: str, image: bytes, *, catalogue: str | None = None, **environment: str) -> Iterator[HttpServer]:
    """Serve the store from another process until the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "support.http_server", url, str(port), *([catalogue] if catalogue else [])]
    process = subprocess.Popen(command, env={**importing(), **environment})
    server = HttpServer(port, process, image)
    try:
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                assert server.ask("GET", "/healthz").status == 200
                break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def step_clock_on_signals() -> None:
    real, offset = time.time, [0.0]

    def step(number: int, _frame: object) -> None:
        offset[0] += STEP_S if number == signal.SIGUSR1 else -STEP_S

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, step)
    time.time = lambda: real() + offset[0]


def main() -> None:
    import uvicorn

    from serving.http.api import make_api
    from serving.runtime.predictor import Predictor
    from store.registry.store import Store

    url, port, *rest = sys.argv[1:]
    step_clock_on_signals()
    with Store.open(url, catalogue=rest[0] if rest else None) as store:
        predictor = Predictor(store, dtype="float32", batch_invariant=True)
        uvicorn.run(make_api(predictor, store, keys=False), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
