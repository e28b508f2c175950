"""The bytes of a file without a copy, such that a disk that fails is an error and not a signal."""

from __future__ import annotations

import errno
import mmap
import os
from io import FileIO

MAPPED_NBYTES = 1 << 16  # a smaller file is read in less time than it takes to map it
POPULATE_READ = 22  # MADV_POPULATE_READ of madvise(2), Linux 5.14, for which Python has no name
NOT_HERE = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EOPNOTSUPP})


def map_file(path: str) -> memoryview:
    """Return the bytes of the file, mapped where it is large; raise `OSError` where they cannot be read.

    All pages are brought in here: a page that cannot be read when it is touched ends the process (SIGBUS), one that
    cannot be brought in is an error. The file must never change in place, as no file of a store does. Where the
    kernel cannot do so, the file is read. The memory is the caller's own: what it writes there is in no file.
    """
    with FileIO(path) as file:
        nbytes = os.fstat(file.fileno()).st_size
        if nbytes < MAPPED_NBYTES:
            return _read(file, nbytes)
        try:
            # A private mapping: PyTorch asks for memory that it could write, and would write to a copy.
            mapped = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_COPY)
            mapped.madvise(POPULATE_READ)
        except OSError as error:
            if error.errno in NOT_HERE:
                return _read(file, nbytes)
            if error.errno == errno.EFAULT:  # how the kernel says that a page cannot be brought in
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
            raise
        return memoryview(mapped)


def _read(file: FileIO, nbytes: int) -> memoryview:
    data, end = memoryview(bytearray(nbytes)), 0
    while count := file.readinto(data[end:]):
        end += count
    return data[:end]
