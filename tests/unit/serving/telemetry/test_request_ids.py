"""An id is safe to print whatever a client sends, and a trace is the client's only where the header is as it should."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cluster.haproxy_config import REQUEST_ID
from serving.telemetry.request_ids import TraceParent, clean_id, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@given(st.none() | st.binary(max_size=80) | st.from_regex(REQUEST_ID, fullmatch=True).map(str.encode))
def test_an_id_is_short_and_clean_and_the_clients_own_where_that_is(sent: bytes | None) -> None:
    got = clean_id(sent)
    assert re.fullmatch(REQUEST_ID, got)
    is_clean = sent is not None and re.fullmatch(REQUEST_ID.encode(), sent) is not None
    assert (got.encode() == sent) == is_clean


def test_new_ids_differ() -> None:
    assert len({clean_id(None) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "header",
    [
        "", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f" 00-{TRACE}-{SPAN}-01",
    ],
)  # fmt: skip
def test_a_malformed_traceparent_counts_as_none(header: str) -> None:
    assert parse_traceparent(header.encode()) is None


def test_a_traceparent_is_read_also_of_a_later_version() -> None:
    assert parse_traceparent(None) is None
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-01".encode()) == TraceParent(TRACE, SPAN, sampled=True)
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-00".encode()) == TraceParent(TRACE, SPAN, sampled=False)
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-03-what".encode()) == TraceParent(TRACE, SPAN, sampled=True)
