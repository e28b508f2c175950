"""Folders of an attacker: each changes or replaces files that stock PEFT left."""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

CONFIG, WEIGHTS, HEAD, LABELS, CARD = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "head.safetensors",
    "classes.txt",
    "onetrunk.json",
)
Attack = Callable[[Path], object]


def pack(header: object, body: bytes = b"", *, raw: bytes | None = None) -> bytes:
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensors(make: Callable[[], bytes]) -> Attack:
    return lambda folder: (folder / WEIGHTS).write_bytes(make())


def header(raw: bytes) -> Attack:
    return tensors(lambda: pack(None, bytes(4), raw=raw))


def content(name: str, make: Callable[[], bytes]) -> Attack:
    return lambda folder: (folder / name).write_bytes(make())


def sparse(name: str, nbytes: int, start: bytes = b"") -> Attack:
    """Make a file that takes no room on disk and would take all memory."""

    def attack(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.write(start)
            file.truncate(nbytes)

    return attack


def instead(name: str, make: Callable[[Path], object]) -> Attack:
    """Put something that is no regular file in the place of one."""

    def attack(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return attack


def option(**values: object) -> Attack:
    def attack(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_bytes())
        (folder / CONFIG).write_text(json.dumps({**config, **values}))

    return attack


def raw_option(name: str, text: str) -> Attack:
    """Set an option to JSON that Python would not write."""

    def attack(folder: Path) -> None:
        config = (folder / CONFIG).read_text().rstrip().removesuffix("}")
        (folder / CONFIG).write_text(f'{config}, "{name}": {text}}}')

    return attack


def card(**values: object) -> Attack:
    index = {"depth": 2, "blocks": 4, "criterion": "given"}
    return lambda folder: (folder / CARD).write_text(
        json.dumps({"backbone": "0" * 64, "prune_index": index, "format": 1, **values})
    )


def raw_card(index: str = "", tail: str = "") -> Attack:
    text = f'{{"backbone": "{"0" * 64}", "prune_index": {{"depth": 2, "blocks": 4, "criterion": "x"{index}}}{tail}}}'
    return lambda folder: (folder / CARD).write_text(text)


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


@functools.cache
def many_tensors(count: int) -> bytes:
    entries = (f'"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(count))
    return pack(None, bytes(count), raw=f"{{{','.join(entries)}}}".encode())


def pickled() -> bytes:
    import pickle  # only to attack with

    return pickle.dumps({"weight": os.getpid})


def renamed(suffix: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / f"adapter_model{suffix}").write_bytes(pickled())

    return attack


ONE = entry()
ONE_JSON = json.dumps(ONE).encode()
DEEP = nested(900).encode()
FOLDERS: dict[str, Attack] = {
    # safetensors
    "tensors: a header longer than the file": tensors(lambda: struct.pack("<Q", 1 << 40) + b"{}"),
    "tensors: a header of 2^64 - 1 bytes": tensors(lambda: b"\xff" * 8 + b"{}"),
    "tensors: a header of 200 MB": sparse(WEIGHTS, 200_000_008, struct.pack("<Q", 200_000_000) + b"{"),
    "tensors: a header of 4 MB": header(b"{" + b" " * 4_000_000 + b"}"),
    "tensors: a million of them": tensors(lambda: many_tensors(1_000_000)),
    "tensors: 35,000 of them": tensors(lambda: many_tensors(35_000)),
    "tensors: an overlap": tensors(lambda: pack({"a": ONE, "b": entry(offsets=(2, 6))}, bytes(6))),
    "tensors: all in the same place": tensors(lambda: pack({"a": ONE, "b": ONE}, bytes(4))),
    "tensors: a hole": tensors(lambda: pack({"a": ONE, "b": entry(offsets=(8, 12))}, bytes(12))),
    "tensors: a negative shape": tensors(lambda: pack({"a": entry(shape=(-1,))}, bytes(4))),
    "tensors: negative offsets": tensors(lambda: pack({"a": entry(offsets=(-4, 0))}, bytes(4))),
    "tensors: a shape that overflows 64 bits": tensors(lambda: pack({"a": entry(shape=[2**32] * 2)}, bytes(4))),
    "tensors: a shape of 64 large sizes": tensors(lambda: pack({"a": entry(shape=[2**62] * 64)}, bytes(4))),
    "tensors: a shape of a million sizes": tensors(lambda: pack({"a": entry(shape=[1] * 1_000_000)}, bytes(4))),
    "tensors: offsets beyond the file": tensors(lambda: pack({"a": entry(shape=[2**40], offsets=(0, 2**42))})),
    "tensors: a key twice": header(b'{"a":%b,"a":%b}' % (ONE_JSON, ONE_JSON)),
    "tensors: a NaN": tensors(lambda: pack({"a": ONE}, struct.pack("<f", float("nan")))),
    "tensors: an infinity": tensors(lambda: pack({"a": ONE}, struct.pack("<f", float("-inf")))),
    "tensors: an unknown dtype": tensors(lambda: pack({"a": entry("F4", (8,))}, bytes(4))),
    "tensors: a dtype that is a deep list": header(b'{"a":{"dtype":%b,"shape":[],"data_offsets":[0,0]}}' % DEEP),
    "tensors: names that are not UTF-8": header(b'{"\xff\xfe":%b}' % ONE_JSON),
    "tensors: a lone surrogate": header(b'{"\\udc00":%b}' % ONE_JSON),
    "tensors: deep JSON": header(b'{"a":' + b"[" * 1_000_000),
    "tensors: deep objects": header(b'{"a":' * 100_000),
    "tensors: a number of a million digits": header(b'{"a":%b}' % (b"9" * 1_000_000)),
    "tensors: NaN as a size": header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}'),
    "tensors: bytes after the end": tensors(lambda: pack({"a": ONE}, bytes(8))),
    "tensors: a zip after the end": tensors(lambda: pack({"a": ONE}, bytes(4)) + b"PK\x05\x06" + bytes(18)),
    "tensors: a zip before the header": tensors(lambda: b"PK\x03\x04" + bytes(26) + pack({"a": ONE}, bytes(4))),
    "tensors: a pickle by that name": tensors(pickled),
    "tensors: HTML by that name": tensors(lambda: b"<!DOCTYPE html><html>not found</html>"),
    "tensors: empty": tensors(lambda: b""),
    "tensors: a header that is a list": tensors(lambda: pack([])),
    "tensors: metadata that is an object": tensors(lambda: pack({"__metadata__": {"a": {}}})),
    "tensors: a name that is a path": tensors(lambda: pack({"../../x": ONE}, bytes(4))),
    "tensors: a name of a megabyte": tensors(lambda: pack({"a" * 1_000_000: ONE}, bytes(4))),
    "tensors: a name with line feeds": tensors(lambda: pack({"a\nb\x1b[2J": ONE}, bytes(4))),
    "tensors: 5 GB": sparse(WEIGHTS, 5 << 30),
    "tensors: 3 GB of nothing": sparse(WEIGHTS, 3 << 30),
    "tensors: 3 GB that the header does not promise": sparse(WEIGHTS, 3 << 30, pack({"a": ONE})),
    "head: a million tensors": content(HEAD, lambda: many_tensors(1_000_000)),
    "head: a pickle by that name": content(HEAD, pickled),
    # what is no file
    **{f"{name}: {what}": instead(name, make)
       for name in (CONFIG, WEIGHTS, HEAD, LABELS, CARD)
       for what, make in {
           "a pipe": os.mkfifo,
           "a folder": Path.mkdir,
           "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
           "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
           "a link to itself": lambda path: path.symlink_to(path),
           "a link to a file of the kernel": lambda path: path.symlink_to("/proc/self/environ"),
       }.items()},
    **{f"{name}: a file of 1 GB": sparse(name, 1 << 30) for name in (CONFIG, LABELS, CARD)},
    **{f"a pickle alone, {suffix}": renamed(suffix) for suffix in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")},
    # adapter_config.json
    "config: deep JSON": content(CONFIG, lambda: nested(500_000).encode()),
    "config: a deep option": raw_option("use_dora", nested(900)),
    "config: a deep peft_type": raw_option("peft_type", nested(900)),
    "config: a number of a million digits": raw_option("r", "9" * 1_000_000),
    "config: a rank of 4000 digits": raw_option("r", "9" * 4000),
    "config: an alpha of 400 digits": raw_option("lora_alpha", "9" * 400),
    "config: an alpha that is NaN": raw_option("lora_alpha", "NaN"),
    "config: an alpha beyond floats": raw_option("lora_alpha", "1e999"),
    "config: an alpha that overflows later": raw_option("lora_alpha", "1e300"),
    "config: a value with line feeds": option(bias="none\n\x1b[2Jall"),
    "config: an option with line feeds": option(**{"a\nb": 1}),
    "config: a list": content(CONFIG, lambda: b"[]"),
    "config: UTF-16": content(CONFIG, lambda: "{}".encode("utf-16") + b"\0"),
    "config: a pattern that backtracks": option(target_modules="((([a-z.0-9]+)+)+)+!"),
    "config: a pattern that backtracks, for alpha": option(alpha_pattern={"((([a-z.0-9]+)+)+)+!": 1}, r=5),
    "config: a pattern of 100,000 characters": option(target_modules="(a|b)*" * 16_000),
    "config: 100,000 module names": option(target_modules=[f"blocks.{i}.attn.qkv" for i in range(30_000)]),
    "config: names that are deep lists": raw_option("target_modules", nested(900)),
    "config: an option of tomorrow": option(run_this="import os"),
    "config: code in auto_mapping alone, no tensors fit": option(r=7, auto_mapping={"parent_library": "os"}),
    # classes.txt
    "labels: a million equal lines": content(LABELS, lambda: b"a\n" * 1_000_000),
    "labels: a million lines": content(LABELS, lambda: "".join(f"{i:x}\n" for i in range(600_000)).encode()),
    "labels: a right-to-left override": content(LABELS, lambda: "rose\ntu\u202elip\npoppy\n".encode()),
    "labels: a byte order mark": content(LABELS, lambda: "\ufeffrose\ntulip\npoppy\n".encode()),
    "labels: an escape sequence": content(LABELS, lambda: b"rose\n\x1b]0;x\x07\npoppy\n"),
    "labels: a NUL": content(LABELS, lambda: b"rose\ntu\0lip\npoppy\n"),
    "labels: no UTF-8": content(LABELS, lambda: b"\xff\xfer\0o\0"),
    # onetrunk.json
    "card: another backbone": card(),
    "card: an unknown key": card(run="x"),
    "card: a format of tomorrow": card(format=99),
    "card: deep JSON": content(CARD, lambda: nested(500_000).encode()),
    "card: a deep value": raw_card(tail=f', "certificate": {nested(900)}'),
    "card: a deep recipe": raw_card(tail=f', "lineage": {{"recipe": {{"a": {nested(900)}}}}}'),
    "card: NaN": raw_card(index=', "alpha": NaN'),
    "card: beyond floats": raw_card(index=', "threshold": 1e999'),
    "card: an alpha of 400 digits": raw_card(index=f', "alpha": {"9" * 400}'),
    "card: a format of 4000 digits": card(format=int("9" * 4000)),
    "card: a lone surrogate": raw_card(tail=', "lineage": {"data": "\\ud800"}'),
    "card: UTF-16": content(CARD, lambda: (f'{{"backbone": "{"0" * 64}"}}').encode("utf-16")),
    "card: a key with line feeds": raw_card(tail=', "lineage": {"versions": {"a\\nb\\u001b": 1}}'),
    "card: a depth of 4000 digits": raw_card(index=f', "seed": {"9" * 5000}'),
    "card: a key twice": raw_card(index=', "depth": 3'),
    "card: a backbone that is a path": card(backbone="../../etc/passwd"),
    "card: scores without end": raw_card(index=f', "scores": [{"0," * 100_000}0]'),
}  # fmt: skip
