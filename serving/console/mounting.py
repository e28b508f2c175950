"""Put the console on the HTTP API of a replica."""

from __future__ import annotations

from functools import partial

from starlette.routing import Mount, Route

from serving.console.app import MOUNTED, make_console, to_console
from serving.console.state import ConsoleState
from serving.console.storage_source import StorageSource
from serving.http.api import Api
from serving.http.auth import AppState
from serving.http.telemetry_routes import statistics_of
from serving.telemetry.counters import MOST_NAMES


def mount_console(api: Api) -> None:
    """Offer the console at `/console`, and send `/` there; it signs in with the API's own keys."""
    state: AppState = api.state.app_state
    keys = state.api_keys
    console = make_console(
        ConsoleState(
            store=state.store,
            sessions=None if keys is None else state.sessions,
            find_key=None if keys is None else keys.find,
            backbones=tuple(record.id.fingerprint for record in state.predictor.records),
            storage=StorageSource(state.store),
            statistics=partial(statistics_of, state),
            requests=partial(statistics_of, state, tasks=MOST_NAMES),
        )
    )
    api.router.routes.append(Route("/", to_console, methods=["GET"], include_in_schema=False))
    api.router.routes.append(Mount(MOUNTED, console))
