from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
import torch
from PIL import Image

from serving.runtime.decode_helper import DecodeHelper
from serving.runtime.decode_pool import DecodePool
from serving.runtime.fair_queue import MAX_WAITING, MAX_WAITING_OF_A_KEY, FairQueue
from store.errors import DeadlineError, ImageError, OverloadedError
from store.images.decoding import decode
from store.records.backbone import Preprocessing
from store.weights.preprocessing import make_transform

SMALL = Preprocessing(32, 32, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 0.9, "center")


def encode(size: tuple[int, int], kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def slow_image() -> bytes:
    """Megapixels in nearly as many scans as are allowed."""
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00"
    return whole[:-2] + 80 * scan + whole[-2:]


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(SMALL)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (encode((60, 40)), "here"),
        (encode((60, 40), "PNG"), "here"),
        (encode((900, 700)), "thread"),
        (encode((900, 700), "PNG"), "thread"),
        (encode((60, 40), progressive=True), "helper"),
        (encode((60, 40), "WEBP"), "here"),
    ],
    ids=["a small JPEG", "a small PNG", "a JPEG", "a PNG", "a progressive JPEG", "a small WebP"],
)
def test_an_image_has_the_same_pixels_wherever_its_cost_puts_it(pool, data, where):
    future = pool.submit(data)
    assert future.done() == (where == "here")
    assert torch.equal(future.result(30), make_transform(SMALL)(decode(data)))
    assert [helper.starts for helper in pool._helpers].count(1) == (where == "helper")


def test_what_a_helper_refuses_is_the_same_error_and_it_goes_on(pool):
    broken = encode((60, 40), progressive=True)[:-200]
    with pytest.raises(ImageError, match="cannot be decoded"):
        pool.submit(broken).result(30)
    assert pool.submit(encode((60, 40), progressive=True)).result(30).shape == (3, 32, 32)


def test_a_helper_that_takes_too_long_is_killed_and_the_next_image_gets_a_new_one():
    helper = DecodeHelper(SMALL, seconds=30)
    try:
        quick = encode((60, 40), progressive=True)
        helper.decode(quick)
        helper._seconds = 0.05
        start = time.monotonic()
        with pytest.raises(ImageError, match=r"more than 0\.05 s to decode"):
            helper.decode(slow_image())
        assert time.monotonic() - start < 5
        helper._seconds = 30
        assert len(helper.decode(quick)) == 32 * 32 * 3
        assert helper.starts == 2
    finally:
        helper.close()


def test_a_helper_that_dies_is_an_image_error():
    helper = DecodeHelper(SMALL, seconds=30)
    try:
        helper.decode(encode((60, 40)))
        helper._process.kill()
        with pytest.raises(ImageError, match="too much memory"):
            helper.decode(encode((60, 40)))
    finally:
        helper.close()


def test_what_is_no_image_is_refused_without_a_thread(pool):
    with pytest.raises(ImageError, match="are not an image"):
        pool.submit(bytes(1 << 20))


def test_what_is_refused_by_its_header_is_refused_at_once(pool):
    with pytest.raises(ImageError, match="too long and thin"):
        pool.submit(encode((3000, 2), "PNG"))


def test_an_image_whose_deadline_is_over_or_that_nobody_waits_for_is_not_decoded(pool, monkeypatch):
    held, decoded = threading.Event(), []

    def slowly(job: object) -> bytes:
        held.wait(30)
        decoded.append(job)
        return bytes(32 * 32 * 3)

    photo = encode((900, 700))
    pool.close()
    monkeypatch.setattr(DecodePool, "_fit", lambda _, job: slowly(job))
    pool = DecodePool(SMALL)
    first = [pool.submit(photo) for _ in range(2)]
    left, late = pool.submit(photo), pool.submit(photo, deadline=time.monotonic() - 1)
    assert left.cancel()
    held.set()
    assert all(future.result(30) is not None for future in first)
    with pytest.raises(DeadlineError):
        late.result(30)
    with pytest.raises(CancelledError):
        left.result(0)
    pool.close()
    assert len(decoded) == 2


def test_one_keys_flood_does_not_delay_another_key():
    queue: FairQueue[str] = FairQueue()
    for index in range(20):
        queue.put("loud", 10, f"loud {index}")
    queue.put("quiet", 10, "quiet 0")
    order = [queue.get() for _ in range(21)]
    assert order.index("quiet 0") <= 2
    assert [item for item in order if item != "quiet 0"] == [f"loud {index}" for index in range(20)]


def test_a_key_that_fills_its_part_of_the_queue_leaves_room_for_others():
    queue: FairQueue[int] = FairQueue()
    for index in range(MAX_WAITING_OF_A_KEY):
        queue.put("loud", 1, index)
    with pytest.raises(OverloadedError, match="wait to be decoded"):
        queue.put("loud", 1, -1)
    for index in range(MAX_WAITING - MAX_WAITING_OF_A_KEY):
        queue.put(f"quiet {index}", 1, index)
    with pytest.raises(OverloadedError):
        queue.put("another", 1, -1)
    assert len(queue) == MAX_WAITING
