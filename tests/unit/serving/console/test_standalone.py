from __future__ import annotations

import urllib.request

import pytest
from starlette.testclient import TestClient

from serving.console.standalone import make_application, running_console
from serving.port import free_port
from store.errors import PortTakenError


def test_a_store_without_a_server_is_shown_at_a_port_of_this_machine(shared_store):
    with running_console(shared_store, port=free_port()) as running:
        with urllib.request.urlopen(running.url) as answer:
            page = answer.read().decode()
            assert answer.headers["x-frame-options"] == "DENY"
        assert "Where tasks leave" in page
        with (
            pytest.raises(PortTakenError),
            running_console(shared_store, port=int(running.url[:-1].rpartition(":")[2])),
        ):
            pass
    assert not running.alive


def test_a_name_that_another_site_points_here_is_refused(shared_store):
    application = make_application(shared_store)
    assert TestClient(application, base_url="http://localhost:8266").get("/console/tasks").status_code == 200
    assert TestClient(application, base_url="http://rebound.test").get("/console/tasks").status_code == 400
