"""Many images in one body: multipart/form-data, or each with its length before it."""

from __future__ import annotations

import re
from email.message import Message

from serving.http.errors import too_large
from serving.http.limits import HttpLimits
from serving.images import IMAGES_TYPE, LENGTH
from store.errors import FormatError

MULTIPART_TYPE = "multipart/form-data"
HEADERS_END = re.compile(rb"\r?\n\r?\n")
MOST_HEADERS_NBYTES = 4096  # of one part


def split_images(body: bytes, content_type: str, limits: HttpLimits) -> list[bytes] | None:
    """Return the images of a body of these types, None of any other; raise `FormatError` where it is malformed."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == IMAGES_TYPE:
        images = split_by_length(body, limits.images)
    elif kind == MULTIPART_TYPE:
        images = split_multipart(body, boundary_of(content_type), limits.images)
    else:
        return None
    if not images:
        raise FormatError("the body holds no image: send at least one")
    return images


def split_by_length(body: bytes, most: int) -> list[bytes]:
    """Return the images of a body in which each follows its length, four bytes, the lowest first."""
    images: list[bytes] = []
    at = 0
    while at < len(body):
        check_count(len(images) + 1, most)
        if at + LENGTH.size > len(body):
            raise FormatError(f"the body ends within the length of images[{len(images)}]: send four bytes for each")
        (nbytes,) = LENGTH.unpack_from(body, at)
        at += LENGTH.size
        if at + nbytes > len(body):
            left = len(body) - at
            raise FormatError(f"images[{len(images)}] has {left:,} of the {nbytes:,} bytes that its length says")
        images.append(body[at : at + nbytes])
        at += nbytes
    return images


def split_multipart(body: bytes, boundary: bytes, most: int) -> list[bytes]:
    """Return the contents of the parts, in order, whatever their names are (RFC 7578)."""
    mark = b"--" + boundary
    if not body.startswith(mark):
        raise FormatError("the multipart body does not begin with its boundary: send it as the header names it")
    images: list[bytes] = []
    at = len(mark)
    while body[at : at + 2] != b"--":
        check_count(len(images) + 1, most)
        head = HEADERS_END.search(body, at, at + MOST_HEADERS_NBYTES)
        end = -1 if head is None else body.find(b"\r\n" + mark, head.end())
        if head is None or end < 0:
            raise FormatError(f"part {len(images)} of the multipart body has no end: send the closing boundary")
        images.append(body[head.end() : end])
        at = end + 2 + len(mark)
    return images


def boundary_of(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise FormatError(f"content type {content_type[:200]!r} names no boundary of 1 to 70 characters: name it")
    return boundary.encode()


def check_count(count: int, most: int) -> None:
    if count > most:
        raise too_large(f"the body holds more than {most} images: send them in several requests")
