"""Where an image is decoded: at once, in a thread, or in a process that can be killed, by what it may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from serving.images import ImageSource
from serving.runtime.decode_helper import DecodeHelper
from serving.runtime.decoding import decode_source
from serving.runtime.fair_queue import FairQueue
from serving.scheduling.deadlines import late
from store.images.decoding import check_header, decode
from store.images.fitting import fit, resized_size
from store.images.headers import ImageHeader, read_header
from store.records.backbone import Preprocessing
from store.weights.preprocessing import Normalise

INLINE_WORK, INLINE_NBYTES = 24 << 10, 64 << 10  # pixels decoded and resized, bytes: well below 1 ms
THREAD_WORK, THREAD_NBYTES = 16 << 20, 8 << 20  # below 1 s
THREADS = HELPERS = 2
DECODE_S = 5.0  # the most that a helper may take for one image


@dataclass(frozen=True, eq=False)
class _Job:
    data: bytes
    header: ImageHeader
    deadline: float | None
    pixels: Future[Tensor] = field(default_factory=Future)


class _Lane:
    """A queue and the threads that take from it, started with the first job."""

    def __init__(self, name: str, decoders: Sequence[Callable[[_Job], bytes]], normalise: Normalise) -> None:
        self.queue: FairQueue[_Job] = FairQueue()
        self._normalise = normalise
        self._threads = [
            threading.Thread(target=self._run, args=(decoder,), name=name, daemon=True) for decoder in decoders
        ]
        self._lock = threading.Lock()
        self._started = False

    def put(self, key: str, job: _Job) -> None:
        self.queue.put(key, job.header.work + len(job.data), job)
        with self._lock:
            if not self._started:
                self._started = True
                for thread in self._threads:
                    thread.start()

    def close(self) -> None:
        self.queue.close()
        if self._started:
            for thread in self._threads:
                thread.join()

    def _run(self, decoder: Callable[[_Job], bytes]) -> None:
        while (job := self.queue.get()) is not None:
            if not job.pixels.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                if job.deadline is not None and (over_s := time.monotonic() - job.deadline) > 0:
                    raise late(over_s)
                job.pixels.set_result(self._normalise(decoder(job)))
            except BaseException as error:  # the waiting client must get it, and the next job must run
                job.pixels.set_exception(error)
            del job  # its bytes would stay until the next one comes


class DecodePool:
    """Decode images to a backbone's input; each key gets its share of the threads and of the helpers.

    What is small and of the common kind is decoded by the caller, larger ones in threads. What is not of the common
    kind or very large may cost more than its header says: it is decoded in a helper, for `seconds` at most.
    """

    def __init__(self, preprocessing: Preprocessing, *, seconds: float = DECODE_S) -> None:
        self._preprocessing = preprocessing
        self._normalise = Normalise(preprocessing)
        self._helpers = [DecodeHelper(preprocessing, seconds=seconds) for _ in range(HELPERS)]
        self._in_threads = _Lane("decode", THREADS * [self._fit], self._normalise)
        self._in_helpers = _Lane("decode helper", [_by(helper) for helper in self._helpers], self._normalise)

    def decode(self, image: ImageSource) -> Tensor:
        """Decode on this thread whatever a caller in this process gives, for as long as it takes."""
        return self._normalise(fit(decode_source(image), self._preprocessing).tobytes())

    def submit(self, data: bytes, *, key: str = "", deadline: float | None = None) -> Future[Tensor]:
        """Return the pixels' future, which is done where the image is small; cancel it to take it from the queue.

        Raises `ImageError` where the header is refused, and `OverloadedError` where too many images wait.
        """
        header = read_header(data)
        check_header(header)
        job = _Job(data, header, deadline)
        if self.is_small(header):
            job.pixels.set_result(self._normalise(self._fit(job)))
        elif header.plain and header.work <= THREAD_WORK and header.nbytes <= THREAD_NBYTES:
            self._in_threads.put(key, job)
        else:
            self._in_helpers.put(key, job)
        return job.pixels

    def is_small(self, header: ImageHeader) -> bool:
        """Whether it takes so little time that no thread is needed."""
        if not header.plain or not header.pixels or header.nbytes > INLINE_NBYTES or header.work > INLINE_WORK:
            return False
        width, height = resized_size((header.width, header.height), self._preprocessing)
        return header.work + width * height <= INLINE_WORK

    def check_room(self, key: str) -> None:
        """Raise `OverloadedError` where an image would find no room, before it is read."""
        self._in_threads.queue.check_room(key)
        self._in_helpers.queue.check_room(key)

    @property
    def waiting(self) -> int:
        return len(self._in_threads.queue) + len(self._in_helpers.queue)

    def close(self) -> None:
        """Decode what is queued, then stop; what a helper has in hand it ends, or is killed in time."""
        self._in_threads.close()
        self._in_helpers.close()
        for helper in self._helpers:
            helper.close()

    def _fit(self, job: _Job) -> bytes:
        return fit(decode(job.data, job.header), self._preprocessing).tobytes()


def _by(helper: DecodeHelper) -> Callable[[_Job], bytes]:
    return lambda job: helper.decode(job.data)
