from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from serving.client import AsyncClient, Client, ImageAnswer
from serving.http.image_bodies import split_by_length
from serving.prediction import LabelScore, Prediction
from serving.runtime.engine_prediction import EnginePrediction
from store.errors import ImageError, InvalidSettingError, ServerError

LABELS = ("ant", "bee", "cat", "dog")
IMAGE = b"an image"


def engine_prediction(task: str) -> EnginePrediction:
    return EnginePrediction(task, 3, 7, LABELS, torch.tensor([0.1, 2.0, -1.0, 1.5]))


@dataclass
class Server:
    """A server that answers every ref but `nothing` as the API does, and keeps what it received."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    split_keys: list[str | None] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)

    def answer(self, path: str, images: int) -> tuple[int, dict[str, object]]:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        if "nothing" in query["ref"]:
            return 404, {"error": "TaskNotFoundError", "message": "no task 'nothing'"}
        top, logits = int(query["top"][0]), query["logits"] == ["true"]
        return 200, {
            "answers": [engine_prediction(ref).to_dict(top=top, logits=logits) for ref in query["ref"] * images]
        }


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            server.authorizations.append(self.headers["Authorization"])
            server.split_keys.append(self.headers["X-Split-Key"])
            server.connections.add(self.client_address)
            is_batch = self.headers["Content-Type"] == "application/vnd.onetrunk.images"
            images = len(split_by_length(server.bodies[-1], 64)) if is_batch else 1
            status, answer = server.answer(self.path, images)
            if status == 200 and b"bad" in server.bodies[-1]:
                status, answer = 400, {"error": "ImageError", "message": "images[0]: no image"}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield server
        http.shutdown()


def test_a_prediction_from_a_server_is_the_one_of_the_engine(server: Server) -> None:
    alone = engine_prediction("flowers")
    with Client(server.url) as client:
        received = client.predict("flowers", IMAGE, top=3, logits=True)
    assert isinstance(received, Prediction)
    assert (received.task, received.version, received.depth) == ("flowers", 3, 7)
    assert received.logits == alone.logits
    assert received.top(2) == alone.top(2) == (LabelScore("bee", alone.top()[0].score), alone.top()[1])
    assert json.dumps(received.to_dict(top=3, logits=True)) == json.dumps(alone.to_dict(top=3, logits=True))
    assert list(received.to_dict()) == ["task", "version", "depth", "top"]


def test_logits_that_were_not_requested_are_refused_with_the_remedy(server: Server) -> None:
    with Client(server.url) as client:
        received = client.predict("flowers", IMAGE)
    with pytest.raises(InvalidSettingError, match="request them with `logits=True`"):
        received.logits  # noqa: B018 - a property


def test_predictions_come_in_the_order_of_the_refs_and_from_one_request(server: Server) -> None:
    with Client(server.url, api_key="ot_secret") as client:
        received = client.predict_many(["flowers", "birds@prod"], IMAGE, top=1)
    assert [prediction.task for prediction in received] == ["flowers", "birds@prod"]
    assert [len(prediction.top()) for prediction in received] == [1, 1]
    assert (server.bodies, server.authorizations) == ([IMAGE], ["Bearer ot_secret"])


def test_an_image_may_be_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    with Client(server.url) as client:
        client.predict("flowers", tmp_path / "a.png")
        with pytest.raises(ImageError, match=r"'.*b.png' cannot be read .*: give the path of an image file"):
            client.predict("flowers", tmp_path / "b.png")
    assert server.bodies == [IMAGE]


def test_a_refusal_of_the_server_is_raised_with_its_message(server: Server) -> None:
    with (
        Client(server.url) as client,
        pytest.raises(ServerError, match="answered 404 for 'nothing': no task 'nothing'"),
    ):
        client.predict("nothing", IMAGE)


def test_where_no_server_listens_the_error_names_the_way_to_start_one() -> None:
    with (
        Client("http://127.0.0.1:1", timeout_s=5) as client,
        pytest.raises(ServerError, match=r"with `serve\(store_url\)`"),
    ):
        client.predict("flowers", IMAGE)


def folder_of(root: Path, *names: str) -> Path:
    (root / "below").mkdir()
    for name in names:
        (root / name).write_bytes(name.encode())
    return root


def test_every_image_of_a_folder_is_answered_by_name_and_progress_is_told(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "b.png", "a.JPG", "below/c.webp", "notes.txt")
    told: list[tuple[int, int]] = []
    with Client(server.url) as client:
        answers = list(client.predict_folder("flowers", folder, batch=2, progress=lambda *at: told.append(at)))
    assert [answer.path.name for answer in answers] == ["a.JPG", "b.png", "c.webp"]
    assert [answer.prediction.task for answer in answers if answer.prediction] == ["flowers"] * 3
    assert [len(split_by_length(body, 64)) for body in server.bodies] == [2, 1]
    assert told == [(2, 3), (3, 3)]


def test_a_file_that_is_no_image_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "bad.png", "c.png")

    async def ask_alike() -> list[ImageAnswer]:
        async with AsyncClient(server.url) as client:
            return [answer async for answer in client.predict_folder("flowers", folder)]

    with Client(server.url) as client:
        answers = list(client.predict_folder("flowers", folder))
    assert [answer.problem for answer in answers] == [None, "no image", None]
    assert [answer.problem for answer in asyncio.run(ask_alike())] == [None, "no image", None]


def test_a_folder_without_images_and_a_task_that_is_not_there_are_refused(server: Server, tmp_path: Path) -> None:
    with Client(server.url) as client:
        with pytest.raises(InvalidSettingError, match="give a folder of images"):
            list(client.predict_folder("flowers", tmp_path))
        with pytest.raises(ServerError, match="no task 'nothing'"):
            list(client.predict_folder("nothing", folder_of(tmp_path, "a.png")))
        with pytest.raises(InvalidSettingError, match="from 1"):
            list(client.predict_folder("flowers", tmp_path, batch=0))


def test_one_connection_serves_many_requests_and_threads_may_share_the_client(server: Server) -> None:
    with Client(server.url) as client, ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            client.predict("flowers", IMAGE)
        assert len(server.connections) == 1
        assert [each.version for each in threads.map(lambda _: client.predict("flowers", IMAGE), range(20))] == [3] * 20


def test_the_client_loads_neither_torch_nor_ray() -> None:
    code = "import sys, serving.client; print([name for name in ('torch', 'ray', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout == "[]\n"


def test_a_batch_of_images_is_one_request_and_gets_an_answer_for_each(server: Server) -> None:
    with Client(server.url) as client:
        answers = client.predict_batch("flowers", [b"one", b"", b"three"], top=2)
    assert split_by_length(server.bodies[0], 64) == [b"one", b"", b"three"]
    assert [(answer.task, len(answer.top())) for answer in answers] == [("flowers", 2)] * 3


def test_a_batch_of_no_image_or_of_bytes_is_refused_before_it_is_sent(server: Server) -> None:
    with Client(server.url) as client:
        for images in ([], b"bytes", "a path"):
            with pytest.raises(InvalidSettingError, match="holds no image"):
                client.predict_batch("flowers", images)
    assert server.bodies == []


def test_a_split_key_goes_with_every_request_of_a_call_and_with_no_other(server: Server, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "bad.png")

    async def ask_alike() -> None:
        async with AsyncClient(server.url) as client:
            await client.predict("flowers", IMAGE, split_key="user 7")
            await client.predict_many(["flowers"], IMAGE, split_key="user 7")
            await client.predict_batch("flowers", [IMAGE], split_key="user 7")
            assert len([each async for each in client.predict_folder("flowers", folder, split_key="user 7")]) == 2

    with Client(server.url) as client:
        client.predict("flowers", IMAGE, split_key="user 7")
        client.predict_many(["flowers"], IMAGE, split_key="user 7")
        client.predict_batch("flowers", [IMAGE], split_key="user 7")
        assert len(list(client.predict_folder("flowers", folder, split_key="user 7"))) == 2
    asyncio.run(ask_alike())
    assert server.split_keys == ["user 7"] * 12  # a folder with a bad file is asked again, file by file
    with Client(server.url) as client:
        client.predict("flowers", IMAGE)
    assert server.split_keys[-1] is None


@pytest.mark.parametrize("key", ["", " a", "a\r\nX: y", "\u00e9", "k" * 257, 7])
def test_a_split_key_that_a_header_would_change_is_refused_before_it_is_sent(server: Server, key: object) -> None:
    with Client(server.url) as client, pytest.raises(InvalidSettingError, match="printable ASCII"):
        client.predict("flowers", IMAGE, split_key=key)  # type: ignore[arg-type]  # what mypy would find
    assert server.bodies == []
