from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.broken_bundles import bundle_of, foreign, parts, state, whole
from support.destinations import empty_store
from support.toy_backbone import publish

from store.errors import FormatError
from store.records.blob import Blob
from store.registry.bundle import import_bundle
from store.registry.bundle_archive import write_end, write_member
from store.registry.store import Store

END = bytes(1024)
BLOB = f"blobs/{'0' * 64}"


@pytest.fixture
def bundle(store: Store, folder: Path) -> bytes:
    """A good bundle of one version and its backbone."""
    publish(store, folder)
    return bundle_of(store, "flowers").getvalue()


def refused(bundle: bytes, root: Path) -> str:
    """Import into an empty store, which must stay empty, and return the one line that is said."""
    store = empty_store(root / "target")
    before = state(store)
    with pytest.raises(FormatError) as caught:
        import_bundle(store, io.BytesIO(bundle))
    assert state(store) == before
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def second_header(bundle: bytes) -> int:
    start = 512 + len(parts(bundle)["bundle.json"])
    return start + -start % 512


def after_the_index(member: bytes) -> Callable[[bytes], bytes]:
    """Put a foreign member second, before all blobs."""

    def change(bundle: bytes) -> bytes:
        start = second_header(bundle)
        return bundle[:start] + member + bundle[start:]

    return change


def with_field(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrite a field of the first header, and make its checksum right again."""

    def change(bundle: bytes) -> bytes:
        header = bytearray(bundle[:512])
        header[offset : offset + len(value)] = value
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + bundle[512:]

    return change


def zipped(bundle: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("bundle.json", bundle)
    return file.getvalue()


def reordered(bundle: bytes) -> bytes:
    index, first, second, *rest = parts(bundle).items()
    return whole(dict([index, second, first, *rest]))


def index_last(bundle: bytes) -> bytes:
    index, *rest = parts(bundle).items()
    return whole(dict([*rest, index]))


def twice(bundle: bytes, *, index: bool) -> bytes:
    file = io.BytesIO()
    for number, (name, data) in enumerate(parts(bundle).items()):
        write_member(file, name, data)
        if number == (0 if index else 1):
            write_member(file, name, data)
    write_end(file)
    return file.getvalue()


def crowded(bundle: bytes) -> bytes:
    """Add far more blobs than the index can name, each of the right digest."""
    index, *rest = parts(bundle).items()
    junk = {f"blobs/{Blob.of(data).sha256}": data for data in (b"%d" % number for number in range(2000))}
    return whole({index[0]: index[1], **dict(sorted([*rest, *junk.items()]))})


def flipped(offset: int) -> Callable[[bytes], bytes]:
    return lambda b: b[:offset] + bytes([b[offset] ^ 1]) + b[offset + 1 :]


TARS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a parent folder": (after_the_index(foreign("../evil", b"x")), "'../evil'.*is neither"),
    "a parent folder behind ours": (after_the_index(foreign("blobs/../../evil", b"x")), "is neither"),
    "an absolute path": (after_the_index(foreign("/etc/cron.d/evil", b"x")), "is neither"),
    "a backslash": (after_the_index(foreign("blobs\\..\\evil", b"x")), "is neither"),
    "a dot": (after_the_index(foreign("./bundle.json", b"x")), "is neither"),
    "a name that is no digest": (after_the_index(foreign(f"blobs/{'0' * 63}", b"x")), "is neither"),
    "a digest in capitals": (after_the_index(foreign(f"blobs/{'A' * 64}", b"x")), "is neither"),
    "no name": (after_the_index(foreign("", b"x")), "is neither"),
    "a symbolic link": (after_the_index(foreign(BLOB, type=tarfile.SYMTYPE, linkname="/etc")), "a symbolic link"),
    "a link and a file through it": (
        after_the_index(foreign("blobs", type=tarfile.SYMTYPE, linkname="/tmp") + foreign("blobs/evil", b"x")),
        "a symbolic link",
    ),
    "a hard link": (after_the_index(foreign(BLOB, type=tarfile.LNKTYPE, linkname="bundle.json")), "a hard link"),
    "a character device": (after_the_index(foreign(BLOB, type=tarfile.CHRTYPE, devmajor=1, devminor=5)), "a character"),
    "a block device": (after_the_index(foreign(BLOB, type=tarfile.BLKTYPE, devmajor=8)), "a block device"),
    "a FIFO": (after_the_index(foreign(BLOB, type=tarfile.FIFOTYPE)), "a FIFO"),
    "a folder": (after_the_index(foreign("blobs", type=tarfile.DIRTYPE)), "a folder"),
    "a sparse file": (after_the_index(foreign(BLOB, b"x", type=tarfile.GNUTYPE_SPARSE)), "a GNU sparse file"),
    "a contiguous file": (after_the_index(foreign(BLOB, b"x", type=tarfile.CONTTYPE)), "a contiguous file"),
    "a plain file of the old type": (after_the_index(foreign(BLOB, b"x", type=tarfile.AREGTYPE)), "does not write"),
    "an unknown type": (after_the_index(foreign(BLOB, b"x", type=b"Z")), "does not write"),
    "a pax path": (after_the_index(foreign("pax", b"16 path=../evil\n", type=tarfile.XHDTYPE)), "a pax header"),
    "a pax size": (after_the_index(foreign(BLOB, b"13 size=9999\n", type=tarfile.XHDTYPE)), "a pax header"),
    "a global pax header": (after_the_index(foreign("pax", b"x", type=tarfile.XGLTYPE)), "a global pax header"),
    "a long name": (after_the_index(foreign("././@LongLink", b"../evil\0", type=b"L")), "a GNU long name"),
    "a long link": (after_the_index(foreign("././@LongLink", b"/etc\0", type=b"K")), "a GNU long link name"),
    "a member of GNU tar": (after_the_index(foreign(BLOB, b"x")), "does not write"),
    "bytes after the name": (with_field(12, b"evil"), "is neither"),
    "a prefix of the name": (with_field(345, b".."), "does not write"),
    "set user id": (with_field(100, b"0004755\0"), "does not write"),
    "an owner": (with_field(108, b"0001750\0"), "does not write"),
    "the name of an owner": (with_field(265, b"root"), "does not write"),
    "a time": (with_field(136, b"14444444444\0"), "does not write"),
    "a link name in a plain file": (with_field(157, b"/etc/passwd"), "does not write"),
    "bytes behind the header": (with_field(500, b"evil"), "does not write"),
    "a size of all there is": (with_field(124, b"77777777777\0"), "cut short"),
    "a size in base 256": (with_field(124, b"\x80" + bytes(10) + b"\x01"), "does not write"),
    "a size below zero in base 256": (with_field(124, b"\xff" * 12), "does not write"),
    "a size below zero": (with_field(124, b"-0000000001\0"), "does not write"),
    "a size with blanks": (with_field(124, b"        512\0"), "does not write"),
    "a size that is no number": (with_field(124, b"99999999999\0"), "does not write"),
    "a wrong checksum": (lambda b: b[:148] + b"0000000\0" + b[156:], "does not write"),
    "no magic": (with_field(257, bytes(8)), "no tar header"),
    "a blob twice": (lambda b: twice(b, index=False), "out of order or occurs twice"),
    "the index twice": (lambda b: twice(b, index=True), "out of order or occurs twice"),
    "the index last": (index_last, "out of order or occurs twice"),
    "blobs in another order": (reordered, "out of order or occurs twice"),
    "more blobs than can be named": (crowded, "more than the 7 blobs"),
    "no index": (lambda b: whole(dict(list(parts(b).items())[1:])), "out of order"),
    "a changed blob": (lambda b: flipped(second_header(b) + 512)(b), "not the one that names it"),
    "a changed padding": (lambda b: flipped(second_header(b) - 1)(b), "padded"),
    "nothing": (lambda _: b"", "no tar header"),
    "an end alone": (lambda _: END, "is empty"),
    "one end block": (lambda b: b[:-512], "cut short"),
    "no end": (lambda b: b[:-1024], "cut short"),
    "half of it": (lambda b: b[: len(b) // 2], "cut short"),
    "a byte less": (lambda b: b[:-1], "cut short"),
    "half a header": (lambda b: b[:256], "no tar header|does not write"),
    "a byte more": (lambda b: b + b"x", "followed by"),
    "zeros after the end": (lambda b: b + bytes(512), "followed by"),
    "another archive after the end": (lambda b: b + b, "followed by"),
    "an end within": (after_the_index(END), "followed by"),
    "gzip": (gzip.compress, "a gzip file"),
    "bzip2": (bz2.compress, "a bzip2 file"),
    "xz": (lzma.compress, "an? xz file"),
    "zip": (zipped, "a zip file"),
    "a pickle": (lambda b: pickle.dumps(b) + bytes(1024), "no tar header"),
    "text": (lambda _: b"hello\n" * 1000, "no tar header"),
    "a byte before": (lambda b: b"\0" + b, "no tar header|does not write"),
}  # fmt: skip


@pytest.mark.parametrize("case", TARS)
def test_a_tar_of_another_form_is_refused_and_leaves_nothing(bundle: bytes, tmp_path: Path, case: str) -> None:
    change, message = TARS[case]
    assert re.search(message, refused(change(bundle), tmp_path))


def test_a_bundle_cut_anywhere_is_refused(bundle: bytes, tmp_path: Path) -> None:
    store = empty_store(tmp_path / "target")
    for nbytes in range(0, len(bundle), 997):
        with pytest.raises(FormatError):
            import_bundle(store, io.BytesIO(bundle[:nbytes]))
    assert store.versions() == store.backbones() == []


def test_a_bundle_with_any_byte_of_a_header_changed_is_refused(bundle: bytes, tmp_path: Path) -> None:
    store = empty_store(tmp_path / "target")
    for offset in range(512):
        with pytest.raises(FormatError):
            import_bundle(store, io.BytesIO(flipped(offset)(bundle)))
    assert store.versions() == store.backbones() == []


def test_a_blob_larger_than_a_header_can_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.registry.bundle_archive.MAX_NBYTES", 10)
    with pytest.raises(FormatError, match="at most 10"):
        write_member(io.BytesIO(), "bundle.json", bytes(11))
