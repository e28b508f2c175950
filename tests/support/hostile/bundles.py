"""Attacks on the import of bundles: other archives, torn ones, members and JSON that a reader should refuse."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping

from support.broken_bundles import Parts, foreign, parts, sealed, whole, with_index_bytes, with_manifest
from support.hostile.cases import REFUSED, Case, post
from support.hostile.targets import JSON_BOMBS

TARGET = "/v1/bundles/mallory/imported"
Build = Callable[[bytes], bytes]
"""Makes a hostile bundle of a good one."""


def _with_first(member: bytes) -> Build:
    return lambda bundle: member + bundle


def _rebuilt(build: Callable[[Parts], bytes]) -> Build:
    return lambda bundle: build(parts(bundle))


def _zip(bundle: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts(bundle).items():
            archive.writestr(name, data)
    return out.getvalue()


def _zip_bomb(_bundle: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../bundle.json", bytes(100 << 20))
    return out.getvalue()


def _padded(bundle: bytes) -> bytes:
    """Add 20,000 empty members, each of which has a name of its own."""
    return b"".join(foreign(f"blobs/{number:064x}") for number in range(20_000)) + bundle


def _sized(field: bytes) -> Build:
    """Say another size in the header of the first member."""

    def build(bundle: bytes) -> bytes:
        header = bytearray(bundle[:512])
        header[124:136] = field
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + bundle[512:]

    return build


def _swap_blobs(bundle: bytes) -> bytes:
    """Exchange the contents of two blobs, so that neither is what its name says."""
    members = dict(parts(bundle))
    first, second = sorted(name for name in members if name.startswith("blobs/"))[:2]
    members[first], members[second] = members[second], members[first]
    return whole(members)


def _nested(value: dict[str, object]) -> None:
    value["certificate"] = json.loads("[" * 400 + "]" * 400)


def _constant(data: bytes) -> Callable[[Parts], bytes]:
    return lambda _: sealed(data, {})


HOSTILE: Mapping[str, Build] = {
    "nothing": lambda _: b"",
    "noise": lambda _: os.urandom(1 << 20),
    "1,024 zeros": lambda _: bytes(1024),
    "20 MB of zeros": lambda _: bytes(20 << 20),
    "gzip": gzip.compress,
    "a gzip bomb": lambda _: gzip.compress(bytes(100 << 20)),
    "ZIP": _zip,
    "a ZIP bomb that goes up": _zip_bomb,
    "7z": lambda _: b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "XZ": lambda _: b"\xfd7zXZ\0" + bytes(100),
    "a member that goes up": _with_first(foreign("../../etc/cron.d/x", b"x")),
    "a member at the root": _with_first(foreign("/etc/passwd", b"x")),
    "a member with a NUL": _with_first(foreign("bundle.json\0.png", b"x")),
    "a link": _with_first(foreign("link", type=b"2", linkname="/etc/passwd")),
    "a hard link": _with_first(foreign("link", type=b"1", linkname="/etc/passwd")),
    "a device": _with_first(foreign("zero", type=b"3", devmajor=1, devminor=5)),
    "a pipe": _with_first(foreign("pipe", type=b"6")),
    "a folder": _with_first(foreign("blobs/", type=b"5")),
    "a sparse member": _with_first(foreign("sparse", b"x", type=b"S")),
    "a long name of 1 MB": _with_first(foreign("././@LongLink", b"a" * (1 << 20), type=b"L")),
    "a PAX header that says 2 ** 60": _with_first(foreign("pax", b"30 size=1152921504606846976\n\n", type=b"x")),
    "a PAX header with another path": _with_first(foreign("pax", b"27 path=../../etc/passwd\n\n", type=b"x")),
    "a size of 2 ** 60": _sized(b"\x80\0\0\0" + (1 << 60).to_bytes(8, "big")),
    "a negative size": _sized(b"\xff" * 12),
    "a size in words": _sized(b"a lot!!!!!!!"),
    "20,000 members": _padded,
    "the same bundle twice": lambda bundle: bundle + bundle,
    "the end first": lambda bundle: bytes(1024) + bundle,
    "blobs under each other's names": _swap_blobs,
    "an index twice": lambda bundle: whole({"bundle.json": parts(bundle)["bundle.json"]})[:-1024] + bundle,
    "an index of 1 MB in 1": _rebuilt(with_index_bytes(lambda data: data + b" " * (1 << 20))),
    "an index with versions without end": _rebuilt(
        _constant(json.dumps({"format": 1, "versions": [{}] * 50_000, "backbones": []}).encode())
    ),
    "a manifest 400 deep": _rebuilt(with_manifest(_nested, lambda value: json.dumps(value).encode())),
    "a manifest of another tenant's task": _rebuilt(with_manifest(lambda value: value.update(task="acme/cars"))),
    "a manifest that is NaN": _rebuilt(
        with_manifest(lambda value: value.update(format=float("nan")), lambda value: json.dumps(value).encode())
    ),
    **{f"an index that is {name}": _rebuilt(_constant(data)) for name, data in JSON_BOMBS.items()},
}


def cases_of(bundle: bytes) -> list[Case]:
    """Return the attacks that are made of this bundle, which is good."""

    def sending(build: Build) -> Callable[[], list[bytes]]:
        return lambda: [post(TARGET, build(bundle))]

    def cut(tenth: int) -> Build:
        return lambda whole: whole[: len(whole) * tenth // 10]

    torn = {f"torn at {tenth} tenths": cut(tenth) for tenth in range(1, 10)}
    return [Case(f"bundle: {name}", sending(build), REFUSED) for name, build in {**HOSTILE, **torn}.items()]


NAMES = [f"bundle: {name}" for name in HOSTILE] + [f"bundle: torn at {tenth} tenths" for tenth in range(1, 10)]
