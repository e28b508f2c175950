"""What a bucket's network may do to a store, and what it may learn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.flaky_proxy import LOSE_ANSWER, LOSE_REQUEST, Wire, proxy
from support.processes import in_a_child
from support.servers import Bucket

from store.backends.base import Backend
from store.backends.identity import store_uuid
from store.backends.urls import open_backend
from store.errors import InvalidSettingError, OnetrunkError, ReadOnlyStoreError, StorageError, StoreNotFoundError

service = pytest.mark.service


@pytest.fixture
def wire(bucket_server: Bucket) -> Iterator[Wire]:
    with proxy(bucket_server.environment["AWS_ENDPOINT_URL"]) as wire:
        yield wire


@pytest.fixture
def backend(wire: Wire, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
    return open_backend(bucket)


FAULTS: dict[str, tuple[str | int, ...]] = {
    "nothing": (),
    "the answer is lost": (LOSE_ANSWER,),
    "the request is lost": (LOSE_REQUEST,),
    "both, in turn": (LOSE_REQUEST, LOSE_ANSWER),
    "two at once refuse each other": (409,),
    "again and again": (409, 409, 409),
    "the server fails": (500,),
    "the server fails when it has done it": (-500,),
    "the server is busy": (503, 503),
    "the server is busy when it has done it": (-503, 503),
}
every_fault = pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)


@service
@every_fault
def test_who_creates_is_told_so_whatever_the_network_does(
    backend: Backend, wire: Wire, faults: tuple[str | int, ...]
) -> None:
    wire.faults.extend(faults)
    assert backend.create("journal/1", b"mine")
    assert not wire.faults
    assert backend.read("journal/1") == b"mine"
    assert not backend.create("journal/1", b"mine")


@service
@every_fault
def test_who_comes_second_is_told_so_whatever_the_network_does(
    backend: Backend, wire: Wire, faults: tuple[str | int, ...]
) -> None:
    backend.create("journal/1", b"theirs")
    wire.faults.extend(faults)
    assert not backend.create("journal/1", b"mine")
    assert backend.read("journal/1") == b"theirs"


@service
def test_an_object_of_another_program_is_not_ours(backend: Backend, wire: Wire) -> None:
    backend.put("journal/1", b"without a mark")
    wire.faults.append(LOSE_REQUEST)
    assert not backend.create("journal/1", b"mine")


@service
@pytest.mark.parametrize("faults", [faults for faults in FAULTS.values() if 409 not in faults])  # answers a condition
def test_what_is_put_arrives_whatever_the_network_does(
    backend: Backend, wire: Wire, faults: tuple[str | int, ...]
) -> None:
    wire.faults.extend(faults)
    backend.put("a", b"x")
    assert backend.read("a") == b"x"


@service
def test_a_server_that_fails_for_good_is_a_typed_error(backend: Backend, wire: Wire) -> None:
    wire.faults.extend([503] * 60)
    with pytest.raises(StorageError, match=r"a cannot be written \(SlowDown\)"):
        backend.create("a", b"x")
    wire.faults.clear()
    assert backend.size("a") is None


@service
def test_where_nothing_listens_is_a_typed_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    backend = open_backend(bucket)
    with pytest.raises(StorageError, match=r"a cannot be read \(no answer\)"):
        backend.read("a")
    with pytest.raises(StorageError, match=r"a cannot be checked \(no answer\)"):
        backend.create("a", b"x")


@service
@pytest.mark.usefixtures("bucket_server")
def test_a_bucket_that_does_not_exist_is_said_not_to() -> None:
    backend = open_backend("s3://no-such-bucket/prefix")
    with pytest.raises(StoreNotFoundError, match="no store at s3://no-such-bucket/prefix"):
        store_uuid(backend)
    with pytest.raises(StorageError, match=r"cannot be listed \(NoSuchBucket\)"):
        list(backend.list())


@service
def test_a_wrong_key_is_refused_and_no_message_has_a_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wJalrXUtnFEMIK7MDENG"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    backend = open_backend(bucket)
    messages = []
    for call, error in (
        (lambda: backend.read("a"), StorageError),
        (lambda: backend.size("a"), StorageError),
        (lambda: list(backend.list()), StorageError),
        (lambda: backend.put("a", b""), ReadOnlyStoreError),
        (lambda: backend.create("a", b""), ReadOnlyStoreError),
        (lambda: backend.delete(["a"]), OnetrunkError),
    ):
        with pytest.raises(error, match="the credentials in the environment") as caught:
            call()
        messages.append(str(caught.value))
    hidden = (secret, os.environ["AWS_ACCESS_KEY_ID"], "Signature=", "AWS4-HMAC", "\n")
    assert [message for message in messages if any(word in message for word in hidden)] == []


@service
def test_a_forked_process_is_told_to_start_anew(backend: Backend) -> None:
    backend.put("a", b"x")

    def use_it() -> None:
        with pytest.raises(StorageError, match="forked process"):
            backend.read("a")
        with pytest.raises(StorageError, match="forked process"):
            open_backend(backend.url).read("a")

    assert in_a_child(use_it) == 0


@service
def test_two_places_in_a_bucket_do_not_see_each_other(bucket: str) -> None:
    one, other = open_backend(bucket), open_backend(f"{bucket}2/deeper/")
    one.put("a", b"1")
    other.put("a", b"2")
    assert (one.read("a"), other.read("a")) == (b"1", b"2")
    assert [file.path for file in one.list()] == [file.path for file in other.list()] == ["a"]
    assert other.url == f"{bucket}2/deeper"


@pytest.mark.parametrize(
    "url",
    [
        "s3:/bucket/one-slash",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket/prefix",
        "s3://bucket:9000/prefix",
        "s3://bucket/a/../../other",
        "s3://bucket/%2e%2e/other",
        "s3://bucket/..",
        "s3://bucket//other",
        "s3://bucket/a\\b",
        "s3://bucket/a?secret",
        "s3://bucket/a#secret",
        "s3://bucket/a\nb",
        "s3://bucket/a\0b",
        "s3://Bücket/a",
        "S3://bucket/a",
        "file:///etc",
        "http://169.254.169.254/latest",
        "memory://x",
        "oracle://user:secret@host/x",
        "",
        "a\0b",
    ],
)
def test_an_address_that_is_no_folder_and_no_bucket_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(OnetrunkError, match=r"\S") as caught:
        open_backend(url)
    assert isinstance(caught.value, ValueError)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_lost_a_slash_does_not_become_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettingError, match="s3://BUCKET"):
        open_backend(Path("s3://bucket/prefix"))


def test_an_account_that_is_not_named_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(InvalidSettingError, match="Account must be specified"):
        open_backend("az://container/prefix")


def test_a_store_in_a_folder_does_without_obstore(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from store.backends.urls import open_backend\n"
        f"open_backend({str(tmp_path)!r}).put('a', b'x')\n"
        "try: open_backend('s3://bucket/prefix')\n"
        "except ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        result.stdout.strip()
        == "store s3:… lies in a bucket and obstore is not installed: pip install 'onetrunk[cloud]'"
    )
