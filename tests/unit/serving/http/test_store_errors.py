"""What an error of the store looks like from outside: a status, whether to come back, and no path."""

from __future__ import annotations

import json

import pytest

from serving.http.errors import answer_of
from serving.telemetry.request_record import RequestRecord
from store.errors import (
    ClosedStoreError,
    IntegrityError,
    InvalidSettingError,
    OnetrunkError,
    OverloadedError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
)


def record() -> RequestRecord:
    return RequestRecord({"method": "GET", "headers": []}, "/v1/tasks")


PLACE = "/srv/models/catalogue.sqlite"


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        (StoreBusyError, 503, "another writer holds"),
        (StorageError, 503, "the store does not answer: try again"),
        (ClosedStoreError, 503, "the server is stopping"),
        (ReadOnlyStoreError, 403, "may not write"),
        (IntegrityError, 500, "is damaged"),
    ],
)
def test_what_names_a_place_is_in_the_log_alone(
    kind: type[OnetrunkError], status: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply = answer_of(kind(f"{PLACE} is held by process 4711"), record())
    body = json.loads(reply.body)
    assert (reply.status_code, body["error"]) == (status, kind.__name__)
    assert told in body["message"]
    assert "/" not in body["message"]
    assert "4711" not in body["message"]
    assert reply.headers.get("Retry-After") == ("1" if status == 503 else None)
    assert PLACE in caplog.text


def test_other_errors_are_told_and_a_full_server_asks_to_come_back(caplog: pytest.LogCaptureFixture) -> None:
    for kind, status in ((InvalidSettingError, 400), (OverloadedError, 503)):
        reply = answer_of(kind("limit 7: use less"), record())
        assert (reply.status_code, json.loads(reply.body)["message"]) == (status, "limit 7: use less")
    assert reply.headers["Retry-After"] == "1"
    assert caplog.text == ""
