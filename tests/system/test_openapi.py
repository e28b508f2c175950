"""Requests made from our own OpenAPI, those that it allows and those that it does not: none makes the server fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from support.hostile.attack import Reply
from support.hostile.cases import ANSWERED_OR_REFUSED
from support.hostile.siege import Besieged, make_store
from support.hostile.verdict import faults_of
from support.processes import importing
from support.server_process import started
from support.servers import free_port

OPENAPI = Path(__file__).parents[1] / "unit" / "onetrunk" / "snapshots" / "openapi.json"
SCHEMA = schemathesis.openapi.from_dict(json.loads(OPENAPI.read_text("utf-8")))
OPERATIONS = {operation.label: operation for operation in (result.ok() for result in SCHEMA.get_all_operations())}
MODES = {
    "allowed": (GenerationMode.POSITIVE, list(OPERATIONS)),
    "not allowed": (GenerationMode.NEGATIVE, [label for label, operation in OPERATIONS.items() if operation.query]),
}
"""What is generated, and for which operations: a path takes any text, so only a query can be wrong by the schema."""
EXAMPLES = 25
TIMEOUT_S = 20


@dataclass(frozen=True)
class Served:
    """A real server, a connection with an operator's rights for one tenant, and the store behind it."""

    url: str
    session: requests.Session
    besieged: Besieged


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    besieged, port = make_store(tmp_path_factory.mktemp("openapi")), free_port()
    command = [sys.executable, "-m", "support.plain_server", str(besieged.store), str(port), "--keys"]
    with started(command, port, env=importing()), requests.Session() as session:
        yield Served(f"http://127.0.0.1:{port}", session, besieged)


@pytest.mark.parametrize(
    ("label", "mode"),
    [pytest.param(label, mode, id=f"{label}, {name}") for name, (mode, labels) in MODES.items() for label in labels],
)
def test_no_request_makes_the_server_fail(served: Served, label: str, mode: GenerationMode) -> None:
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {served.besieged.attacker}"}
        response = case.call(base_url=served.url, session=served.session, headers=headers, timeout=TIMEOUT_S)
        reply = Reply(
            response.status_code,
            {name.lower(): values[0] for name, values in response.headers.items()},
            response.content,
        )
        assert faults_of(ANSWERED_OR_REFUSED, reply, str(served.besieged.store).encode()) == []

    ask()
