"""A well-behaved client in a process of its own: it asks until its input ends, then says how that went."""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from dataclasses import dataclass, field

PAUSE_S = 0.02
TIMEOUT_S = 20.0
HEALTH_EVERY = 10
HEALTH = {"/healthz": (200,), "/readyz": (200, 503)}
"""What answers at any time; a server that is full may say so, but it says it at once."""
STALE_S = 2.0  # a connection unused for so long may be closed by the server, which is no failure
FAILED = 0


@dataclass
class Asker:
    """A kept connection, and the seconds of each answer."""

    port: int
    headers: dict[str, str]
    seconds: list[float] = field(default_factory=list)
    connection: http.client.HTTPConnection | None = None
    used: float = 0.0

    def ask(self, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return the status and the body; status 0 where the server does not answer."""
        start = time.monotonic()
        if self.connection is None or start - self.used > STALE_S:
            self.close()
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            self.connection.request(method, target, body, self.headers)
            response = self.connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return FAILED, b""
        finally:
            self.used = time.monotonic()
            self.seconds.append(self.used - start)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def main(port: int, secret: str, target: str, image: bytes) -> dict[str, object]:
    """Predict until the standard input ends; every tenth time, ask for its health on new connections."""
    predictions, health = Asker(port, {"Authorization": f"Bearer {secret}"}), Asker(port, {})
    expected = predictions.ask("POST", target, image)
    wrong = [] if expected[0] == 200 else [f"the first answer is {expected[0]}"]
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        status, body = predictions.ask("POST", target, image)
        if (status, body) != expected:
            wrong.append(f"{status} {body[:300]!r} after {predictions.seconds[-1]:.2f} s")
        if len(predictions.seconds) % HEALTH_EVERY:
            continue
        for path, right in HEALTH.items():
            status, body = health.ask("GET", path)
            health.close()
            if status not in right:
                wrong.append(f"{path}: {status} {body[:300]!r} after {health.seconds[-1]:.2f} s")
    return {"predictions": predictions.seconds[1:], "health": health.seconds, "wrong": wrong}


if __name__ == "__main__":
    arguments = json.loads(sys.stdin.readline())
    arguments["image"] = bytes.fromhex(arguments["image"])
    json.dump(main(**arguments), sys.stdout)
