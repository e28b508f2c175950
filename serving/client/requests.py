"""What a client sends, whether it waits in a thread or on an event loop."""

from __future__ import annotations

import ssl
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import httpx

from serving.client.address import Address
from serving.client.answers import ImageAnswer, Received, message_of, read_predictions
from serving.client.retries import Retries
from serving.images import IMAGES_TYPE, ImageSource, encoded, join_by_length
from store.errors import ImageError, InvalidSettingError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MOST_BATCH_NBYTES = 16 << 20
MOST_OF_A_SPLIT_KEY = 256
REFUSED_IMAGES = (400, 413)
"""Statuses that may be due to one image of several."""


class HttpOptions(TypedDict):
    """What both clients of httpx are made with."""

    headers: Mapping[str, str]
    timeout: float
    verify: ssl.SSLContext | bool
    trust_env: bool


@dataclass(frozen=True)
class Settings:
    """What a client was made with, checked."""

    address: Address
    http: HttpOptions
    timeout_s: float
    retries: Retries


@dataclass(frozen=True)
class Request:
    """One request, which changes nothing, so that it may be sent again."""

    method: str
    target: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def check_settings(
    url: str, *, api_key: str | None, timeout_s: float, retries: int, ca_file: str | Path | None
) -> Settings:
    if not timeout_s > 0:
        raise InvalidSettingError(f"timeout_s {timeout_s}: give seconds above 0")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise InvalidSettingError("the API key is not valid: give the secret as it was shown when the key was made")
    if retries < 0:
        raise InvalidSettingError(f"retries {retries}: give a number from 0")
    address = Address.parse(url)
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    # The address is the server's own: what the environment says of proxies is not asked.
    http = HttpOptions(headers=headers, timeout=timeout_s, verify=_trusted(address, ca_file), trust_env=False)
    return Settings(address, http, timeout_s, Retries(retries))


def predict(
    refs: Sequence[str], image: ImageSource, *, top: int, logits: bool, split_key: str | None = None
) -> Request:
    if isinstance(refs, str) or not refs:
        raise InvalidSettingError(f"refs {refs!r}: give a list with at least one ref")
    return Request("POST", _target(refs, top=top, logits=logits), encoded(image), _headers(split_key))


def predict_batch(
    ref: str, images: Sequence[ImageSource], *, top: int, logits: bool, split_key: str | None = None
) -> Request:
    if isinstance(images, str | bytes) or not images:
        raise InvalidSettingError("the batch holds no image: give a list with at least one")
    body = join_by_length([encoded(image) for image in images])
    headers = {**_headers(split_key), "Content-Type": IMAGES_TYPE}
    return Request("POST", _target([ref], top=top, logits=logits), body, headers)


def statistics(tasks: int | None) -> Request:
    return Request("GET", "/v1/statistics" if tasks is None else f"/v1/statistics?tasks={tasks}")


@dataclass(frozen=True)
class Batch:
    """Files of a folder that one request may hold; `unread` are those that could not be read."""

    paths: Sequence[Path]
    images: Sequence[bytes]
    unread: Sequence[ImageAnswer] = ()

    def alone(self) -> Iterator[Batch]:
        return (Batch([path], [image]) for path, image in zip(self.paths, self.images, strict=True))

    def is_split(self, received: Received) -> bool:
        """Whether one of several images may have failed all, so that each is to be sent alone."""
        return len(self.images) > 1 and received.status in REFUSED_IMAGES

    def answers(self, received: Received, address: Address) -> Iterator[ImageAnswer]:
        """Return what each file got; raise `ServerError` where that is not for the images' sake."""
        if received.status in REFUSED_IMAGES:
            problem = message_of(received).removeprefix("images[0]: ")
            return (ImageAnswer(path, None, problem) for path in self.paths)
        predictions = read_predictions(received, f"{self.paths[0].name!r}", len(self.images), address)
        return (ImageAnswer(path, each) for path, each in zip(self.paths, predictions, strict=True))


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files of a folder and of those in it, by name; raise where there are none."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InvalidSettingError(f"{str(folder)[:200]!r} holds no {', '.join(SUFFIXES)} file: give a folder of images")
    return paths


def batches(paths: Sequence[Path], most: int) -> Iterator[Batch]:
    """Read the files, at most so many together, and of at most 16 MiB."""
    if most < 1:
        raise InvalidSettingError(f"batch {most}: give the number of images in one request, from 1")
    taken: list[tuple[Path, bytes]] = []
    unread: list[ImageAnswer] = []
    for path in paths:
        try:
            image = encoded(path)
        except ImageError as error:
            unread.append(ImageAnswer(path, None, str(error)))
            continue
        if taken and (len(taken) >= most or sum(len(each) for _, each in taken) + len(image) > MOST_BATCH_NBYTES):
            yield Batch([path for path, _ in taken], [each for _, each in taken], unread)
            taken, unread = [], []
        taken.append((path, image))
    yield Batch([path for path, _ in taken], [each for _, each in taken], unread)


def trace_context() -> dict[str, str]:
    """Return the headers of the caller's OpenTelemetry trace, where the program that calls has one."""
    propagate = sys.modules.get("opentelemetry.propagate")
    headers: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(headers)
    return headers


def _headers(split_key: str | None) -> dict[str, str]:
    """Return the headers of a prediction: the caller's trace, and who gets which version of a split alias."""
    if split_key is None:
        return trace_context()
    is_text = isinstance(split_key, str) and split_key.isascii() and split_key.isprintable()
    if not is_text or split_key.strip() != split_key or not 0 < len(split_key) <= MOST_OF_A_SPLIT_KEY:
        raise InvalidSettingError(
            f"split_key {split_key!r:.80}: give 1 to {MOST_OF_A_SPLIT_KEY} printable ASCII characters without spaces "
            "around them, such as a user's number or a digest"
        )
    return {**trace_context(), "X-Split-Key": split_key}


def _target(refs: Sequence[str], *, top: int, logits: bool) -> str:
    query = {"ref": refs, "top": top, "logits": str(logits).lower()}
    return f"/v1/predict?{urllib.parse.urlencode(query, doseq=True)}"


def _trusted(address: Address, ca_file: str | Path | None) -> ssl.SSLContext | bool:
    if not address.base.startswith("https:"):
        return False  # and so the authorities of this system are not loaded
    if ca_file is None:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ValueError) as error:
        raise InvalidSettingError(
            f"ca_file {str(ca_file)[:200]!r} holds no certificate ({error}): give a PEM file"
        ) from None
