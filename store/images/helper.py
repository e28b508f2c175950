"""A process that decodes images for another one, which may kill it: `python -m store.images.helper PREPROCESSING`.

Each job on stdin is a length (u32, little-endian) and an image; each answer on stdout is a byte (0, or 1 for an
error), a length and RGB pixels as the backbone takes them, or a message. It ends with its input.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from store.errors import ImageError
from store.images.decoding import decode
from store.images.fitting import fit
from store.records.backbone import Preprocessing

JOB, ANSWER = struct.Struct("<I"), struct.Struct("<BI")
MEMORY_NBYTES = 2 << 30  # of address space; the largest image that is allowed takes about half of it


def main(settings: str, jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answer jobs until there are no more."""
    values = json.loads(settings)
    alarm_s = math.ceil(values.pop("seconds")) + 1  # if nobody is left to kill it
    preprocessing = Preprocessing(**values)
    while len(head := jobs.read(JOB.size)) == JOB.size:
        data = jobs.read(*JOB.unpack(head))
        signal.alarm(alarm_s)
        status, body = answer(data, preprocessing)
        signal.alarm(0)
        answers.write(ANSWER.pack(status, len(body)) + body)
        answers.flush()


def answer(data: bytes, preprocessing: Preprocessing) -> tuple[int, bytes]:
    try:
        return 0, fit(decode(data), preprocessing).tobytes()
    except ImageError as error:
        return 1, str(error).encode()
    except MemoryError:  # while resizing
        return 1, b"image takes too much memory to decode: send a smaller one"


def limit_memory() -> None:
    """Bound this process, and offer it first where the machine runs out of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_NBYTES, MEMORY_NBYTES))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes the input
    limit_memory()
    main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
