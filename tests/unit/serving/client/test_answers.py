"""Whatever stands at the address, the client says so in one line of a known kind, and can ask again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.client import AsyncClient, Client
from serving.client.retries import seconds_of
from store.errors import InvalidSettingError, ServerError

GOOD = {"task": "flowers", "version": 3, "depth": 7, "top": [{"label": "ant", "score": 0.5}]}
NOT_ADDRESSES = [
    *("127.0.0.1:8265", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://[::1"),
    *("http://a..b", f"http://{'a' * 300}", "http://a b/", "http://127.0.0.1/a b", "", None, 7),
]


Answers = bytes | None | Callable[[socket.socket], None]


@contextmanager
def peer(*replies: Answers, talks: bool = False) -> Iterator[str]:
    """Answer each request with the next of these bytes or by this function, and None with silence.

    What `talks` is answered without its request being read.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    if not talks:
                        read_request(request)  # all of it: what closes with bytes unread resets the connection
                    if reply is None:
                        request.read(1)  # until the client gives up
                    elif callable(reply):
                        reply(connection)
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
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", "check the address"),
        (b"", "does not answer in HTTP but hangs up: check the address"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "does not speak HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "does not speak HTTP"),
        (b"220 mail ESMTP\r\n", "does not answer in HTTP"),
        (b"-ERR unknown command\r\n", "does not answer in HTTP"),
        (bytes(100_000), "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n", "does not speak HTTP"),
        (answer(b"", "302 Found"), "answered 302 for 'flowers'"),
        (answer(b"\xff\xfe{}"), "does not answer as a onetrunk server does"),
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

    async def ask_alike() -> None:
        with peer(reply, answer({"answers": [GOOD]})) as url:
            async with AsyncClient(url, timeout_s=5) as client:
                with pytest.raises(ServerError, match=problem):
                    await client.predict("flowers", b"image")
                assert (await client.predict("flowers", b"image")).version == 3

    asyncio.run(ask_alike())


def test_an_answer_that_never_ends_is_bounded_in_time_and_in_bytes(monkeypatch):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(head)
            while True:
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.02)

    with peer(drip) as url, Client(url, timeout_s=0.5) as client, pytest.raises(ServerError, match="did not answer"):
        client.predict("flowers", b"image")
    monkeypatch.setattr("serving.client.answers.MOST_NBYTES", 10)
    with peer(drip) as url, Client(url, timeout_s=30) as client, pytest.raises(ServerError, match="more than 10 bytes"):
        client.predict("flowers", b"image")


def test_a_certificate_that_is_not_trusted_is_named_and_one_of_an_own_authority_is_trusted(tmp_path):
    pem = tmp_path / "own.pem"
    pem.write_text(own_certificate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def speak(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            with secured.makefile("rb") as request:
                read_request(request)
            secured.sendall(answer({"answers": [GOOD]}))

    with peer(speak, speak, talks=True) as url:
        address = url.replace("http:", "https:")
        with Client(address, timeout_s=5) as client, pytest.raises(ServerError, match=r"is not trusted .*`ca_file=`"):
            client.predict("flowers", b"image")
        with Client(address, timeout_s=5, ca_file=pem) as client:
            assert client.predict("flowers", b"image").version == 3
    with peer(b"HTTP/1.1 400 plain\r\n\r\n", talks=True) as url:
        with Client(url.replace("http:", "https:"), timeout_s=5) as client, pytest.raises(ServerError) as caught:
            client.predict("flowers", b"image")
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidSettingError, match="give a PEM file"):
        Client("https://127.0.0.1", ca_file=tmp_path / "none.pem")


def own_certificate() -> str:
    """Return a key and a certificate for 127.0.0.1 that nobody but itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    now = datetime.datetime.now(datetime.UTC)
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(hosts, critical=False)
    made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return (private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)).decode()


def refusal(status: int, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status} No\r\n{lines}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()


@pytest.mark.parametrize("status", [429, 503])
def test_what_is_refused_for_now_is_sent_again_once_the_time_is_over(status):
    replies = [refusal(status, "Retry-After: 1"), refusal(status), answer({"answers": [GOOD]})]
    with peer(*replies) as url, Client(url, timeout_s=30) as client:
        start = time.monotonic()
        assert client.predict("flowers", b"image").version == 3
        assert time.monotonic() - start > 1.5

    async def ask_alike() -> None:
        with peer(*replies) as url:
            async with AsyncClient(url, timeout_s=30) as client:
                assert (await client.predict("flowers", b"image")).version == 3

    asyncio.run(ask_alike())


@pytest.mark.parametrize(("reply", "retries"), [
    (refusal(503, "Retry-After: 1"), 0), (refusal(503, "Retry-After: 3600"), 3), (refusal(500, "Retry-After: 1"), 3),
    (refusal(503, "Retry-After: Fri, 31 Dec 2999 23:59:59 GMT"), 3),
])  # fmt: skip
def test_what_is_not_to_be_waited_for_is_raised_at_once(reply, retries):
    refused = pytest.raises(ServerError, match="answered 50")
    with peer(reply) as url, Client(url, timeout_s=5, retries=retries) as client, refused:
        client.predict("flowers", b"image")


@pytest.mark.parametrize(("value", "expected"), [
    (None, 0), ("2", 2), (" 7 ", 7), ("-1", 0), ("soon", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("9" * 30, 1e20),
])  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value, expected):
    assert seconds_of(value) == pytest.approx(expected)


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
