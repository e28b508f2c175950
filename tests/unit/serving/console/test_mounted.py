"""The console on a replica's API: beside its routes, with its keys, its predictions and its statistics."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.console_visitor import text_of

from serving.console.mounting import mount_console
from serving.http.api import Api, make_api
from serving.http.browser_sessions import TOKEN_HEADER
from serving.runtime.predictor import Predictor
from store.registry.api_keys import new_key


@pytest.fixture(scope="module")
def predictor(shared_store) -> Iterator[Predictor]:
    with Predictor(shared_store, dtype="float32") as predictor:
        yield predictor


@pytest.fixture(scope="module")
def api(predictor, shared_store) -> Api:
    api = make_api(predictor, shared_store, keys=True)
    mount_console(api)
    return api


@pytest.fixture
def client(api) -> TestClient:
    return TestClient(api, base_url="http://console.test", follow_redirects=False)


@pytest.fixture(scope="module")
def image() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(out, "PNG")
    return out.getvalue()


def sign_in(client: TestClient, secret: str) -> str:
    """Return the token of the session's pages."""
    assert client.post("/console/sign-in", data={"key": secret}).status_code == 303
    found = re.search(r'data-token="([0-9a-f]{64})"', client.get("/console/try").text)
    assert found is not None
    return found[1]


def test_the_first_page_leads_to_the_console_and_other_routes_answer_as_before(client):
    assert client.get("/").headers["location"] == "/console/"
    assert client.get("/console").status_code in (303, 307)
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/none").status_code == 404
    assert client.get("/v1/tasks").json()["error"] == "UnknownKeyError"
    assert "/console" not in str(client.app.openapi())


def test_a_page_predicts_with_its_session_and_the_token(client, built, image):
    token = sign_in(client, built.secrets["reader"])
    path = "/v1/predict?ref=acme/cars&ref=acme/birds"
    answers = client.post(path, content=image, headers={TOKEN_HEADER: token}).json()["answers"]
    assert [(answer["task"], answer["depth"]) for answer in answers] == [("acme/cars", 8), ("acme/birds", 5)]
    assert client.post(path, content=image).status_code == 401  # the cookie alone, as a foreign page would send it
    other = client.post("/v1/predict?ref=garden/roses", content=image, headers={TOKEN_HEADER: token})
    assert other.status_code == 404


def test_a_revoked_key_predicts_no_longer(client, image, shared_store):
    key, secret = new_key("acme", ("read",))
    shared_store.put_key(key)
    token = sign_in(client, secret)
    shared_store.revoke_key(key.id)
    answer = client.post("/v1/predict?ref=acme/cars", content=image, headers={TOKEN_HEADER: token})
    assert answer.status_code == 401
    assert client.get("/console/tasks").status_code == 303


def test_the_servers_page_shows_what_was_counted_and_to_a_tenant_its_own_alone(client, built, image):
    token = sign_in(client, built.secrets["reader"])
    client.post("/v1/predict?ref=acme/cars", content=image, headers={TOKEN_HEADER: token})
    client.post("/v1/predict?ref=acme/none", content=image, headers={TOKEN_HEADER: token})
    own = text_of(client.get("/console/servers").text)
    assert "Your use" in own
    assert "acme/none" in own
    assert "Replicas" not in own
    client.cookies.clear()
    sign_in(client, built.secrets["rival"])
    assert "acme" not in client.get("/console/servers").text
    client.cookies.clear()
    sign_in(client, built.secrets["operator"])
    everything = text_of(client.get("/console/servers").text)
    assert "Replicas" in everything
    assert "acme" in everything


def test_the_storage_page_has_what_nobody_asked_for_and_statistics_as_many_tasks_as_are_asked_for(client, built, image):
    token = sign_in(client, built.secrets["reader"])
    for task in ("acme/cars", "acme/birds"):
        client.post(f"/v1/predict?ref={task}", content=image, headers={TOKEN_HEADER: token})
    assert "What nobody asked for" not in client.get("/console/storage").text
    client.cookies.clear()
    sign_in(client, built.secrets["operator"])
    page = text_of(client.get("/console/storage").text)
    told = page.partition("What nobody asked for")[2].partition("in other forms")[0]
    assert "of earlier requests this server knows nothing" in told
    assert "acme/plain not known" in told
    assert "acme/cars" not in told
    headers = {"authorization": f"Bearer {built.secrets['operator']}"}
    one, whole = (client.get(f"/v1/statistics{query}", headers=headers).json() for query in ("?tasks=1", ""))
    assert len(one["tasks"]) == 1
    assert one["tasks_left_out"] == len(whole["tasks"]) - 1
    assert whole["tasks_left_out"] == 0
    assert client.get("/v1/statistics?tasks=0", headers=headers).status_code == 400


def test_pages_work_below_a_prefix(api, built):
    client = TestClient(api, base_url="http://console.test", root_path="/vision", follow_redirects=False)
    assert client.get("/vision/").headers["location"] == "/vision/console/"
    answer = client.post("/vision/console/sign-in", data={"key": built.secrets["reader"]})
    assert answer.headers["location"] == "/vision/console/"
    assert "Path=/vision" in answer.headers["set-cookie"]
    page = client.get("/vision/console/try").text
    assert 'data-predict="/vision/v1/predict"' in page
    assert re.findall(r'(?:src|href|action)="(?!/vision/|#)[^"]*"', page) == []
