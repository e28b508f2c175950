from __future__ import annotations

import time

import pytest

from serving.http.admission import check_wait
from serving.http.headers import RequestHeaders
from store.errors import OverloadedError


def headers(start: bytes | None) -> RequestHeaders:
    given = [] if start is None else [(b"x-request-start", start)]
    return RequestHeaders.read({"type": "http", "headers": given})


def test_the_ingress_says_since_when_a_request_waits():
    waited_s = headers(b"%d" % (1e6 * (time.time() - 2))).waited_s
    assert 2.0 <= waited_s < 60.0


@pytest.mark.parametrize(
    "start",
    [None, b"", b"-1", b"x", b"1e3", b"0", b"9" * 30, b"32503680000000000"],  # the last is the year 3000
)
def test_a_time_that_cannot_be_is_no_wait(start):
    assert headers(start).waited_s == 0.0


def test_a_request_that_has_used_half_of_its_time_is_refused_before_its_body_is_read():
    check_wait(0.24, 500.0)
    check_wait(5.0, None)
    with pytest.raises(OverloadedError, match="waited 260 of its 500 ms"):
        check_wait(0.26, 500.0)
