"""Whatever stands at the address, the client says so in one line of a known kind, and can ask again."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from serving.client import Client
from store.errors import InvalidSettingError, ServerError

GOOD = {"task": "flowers", "version": 3, "depth": 7, "top": [{"label": "ant", "score": 0.5}]}
NOT_ADDRESSES = [
    *("127.0.0.1:8265", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://[::1"),
    *("http://a..b", f"http://{'a' * 300}", "http://a b/", "http://127.0.0.1/a b", "", None, 7),
]


@contextmanager
def peer(*replies: bytes | None) -> Iterator[str]:
    """Answer each request with the next of these bytes, and None with silence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    read_request(request)  # all of it: what closes with bytes unread resets the connection
                    if reply is None:
                        request.read(1)  # until the client gives up
                    else:
                        connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def read_request(request: BinaryIO) -> None:
    length = 0
    while line := request.readline().strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    request.read(length)


def answer(value: object, status: str = "200 OK") -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.mark.parametrize("url", NOT_ADDRESSES, ids=repr)
def test_what_is_not_an_address_is_refused_before_anything_is_sent(url):
    with pytest.raises(ServerError, match=r"is not a valid server address: write http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "does not speak HTTP"),
        (b"", "does not answer"),
        (answer(b""), "does not answer as a onetrunk server does"),
        (answer(b"<html>"), "does not answer as a onetrunk server does"),
        (answer(b"[" * 100_000), "does not answer as a onetrunk server does"),
        (answer([]), "does not answer as a onetrunk server does"),
        (answer({"answers": None}), "does not answer as a onetrunk server does"),
        (answer({"answers": [{}]}), "does not answer as a onetrunk server does"),
        (answer({"answers": [7]}), "does not answer as a onetrunk server does"),
        (answer({"answers": [{**GOOD, "top": None}]}), "does not answer as a onetrunk server does"),
        (answer({"answers": [GOOD, GOOD]}), "does not answer as a onetrunk server does"),
        (answer({"message": "one\ntwo"}, "500 Fault"), "answered 500 for 'flowers': one two"),
        (answer(b"<html>\n", "404 No"), "answered 404 for 'flowers'"),
    ],
)
def test_every_other_peer_gives_one_typed_line_and_the_next_request_is_answered(reply, problem):
    with peer(reply, answer({"answers": [GOOD]})) as url, Client(url, timeout_s=5) as client:
        with pytest.raises(ServerError, match=problem) as caught:
            client.predict("flowers", b"image")
        assert "\n" not in str(caught.value)
        assert client.predict("flowers", b"image").top(1)[0].label == "ant"


def test_after_a_time_out_the_late_answer_is_not_taken_for_the_next_one():
    with peer(None, answer({"answers": [GOOD]})) as url, Client(url, timeout_s=0.3) as client:
        with pytest.raises(ServerError, match="did not answer in time: wait longer with `timeout_s=`"):
            client.predict("flowers", b"image")
        assert client.predict("flowers", b"image").version == 3


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_time_out_is_above_zero(timeout_s):
    with pytest.raises(InvalidSettingError, match="give seconds above 0"):
        Client("http://127.0.0.1:1", timeout_s=timeout_s)


@pytest.mark.parametrize("api_key", ["ot_\n", "ot_€"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(api_key):
    with pytest.raises(InvalidSettingError, match="the API key is not valid") as caught:
        Client("http://127.0.0.1:1", api_key=api_key)
    assert "ot_" not in str(caught.value)


@pytest.mark.parametrize("refs", [[], "flowers"])
def test_refs_are_a_list_with_at_least_one(refs):
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidSettingError, match="give a list"):
        client.predict_many(refs, b"image")


def test_a_password_in_the_address_is_not_shown():
    with Client("http://me:secret@127.0.0.1:1", timeout_s=5) as client:
        with pytest.raises(ServerError) as caught:
            client.predict("flowers", b"image")
        assert "secret" not in str(caught.value)
