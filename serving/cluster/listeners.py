"""Where the processes of a running server listen, as Linux tells it to the server's own user."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from serving.cluster.descendants import PROC, command_of, descendants, parent_of

MODULE = "serving.cluster.main"
LISTENS = "0A"
TABLES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}


@dataclass(frozen=True)
class Listener:
    """An address on which a process of the server accepts connections."""

    host: str
    port: int
    process: str

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port} {self.process}"


def listeners_of_server(port: int) -> Sequence[Listener]:
    """Return every address of the server that was started on this port; none where no such server is ours to see."""
    sockets = {inode: (host, at) for inode, host, at in _listening()}
    owners = {pid for inode, pid in _owners(sockets) if sockets[inode][1] == port}
    root = next(filter(None, map(_root, owners)), None)
    if root is None:
        return []
    below = {root, *descendants(root)}
    found = {Listener(*sockets[inode], _name(pid)) for inode, pid in _owners(sockets) if pid in below}
    return sorted(found, key=lambda each: (each.host, each.port))


def _listening() -> Iterator[tuple[str, str, int]]:
    """Yield the inode, the host and the port of every socket that listens."""
    for name, family in TABLES.items():
        with suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                address, port = fields[1].split(":")
                if fields[3] == LISTENS:
                    yield fields[9], _host(family, bytes.fromhex(address)), int(port, 16)


def _host(family: socket.AddressFamily, raw: bytes) -> str:
    """Decode an address, whose words of four bytes are each in the order of the machine, here little-endian."""
    words = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return socket.inet_ntop(family, words).removeprefix("::ffff:")


def _owners(sockets: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Yield the inode of each of these sockets, with each process that has it open."""
    for folder in PROC.glob("[0-9]*/fd"):
        with suppress(OSError):
            for path in folder.iterdir():
                with suppress(OSError):
                    inode = str(path.readlink()).removeprefix("socket:[").removesuffix("]")
                    if inode in sockets:
                        yield inode, int(folder.parent.name)


def _root(pid: int) -> int | None:
    """Return the process at the top of the server that this one is part of."""
    at: int | None = pid
    while at is not None and at > 1:
        if MODULE in command_of(at):
            return at
        at = parent_of(at)
    return None


def _name(pid: int) -> str:
    first = next(iter(command_of(pid)), "")
    return "onetrunk serve" if MODULE in command_of(pid) else first.split()[0].rpartition("/")[2] if first else "?"
