"""Commands that look at a running server, and at what it wrote."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import PORT, command_group, example
from onetrunk.cli.output import Format, log_to_stderr, print_rows
from onetrunk.cli.signals import StopSignal
from onetrunk.rendering.server_view import server_view
from onetrunk.rendering.tables import to_json
from store.errors import ServerError

if TYPE_CHECKING:
    from onetrunk.request_log import AnsweredRequest
    from serving.client import Client

SHOWN = ("at", "status", "tenant", "task", "version", "depth", "aliases", "published_at", "published_by", "confirmed")
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

app = command_group()


@app.command(
    epilog=example("top", "top http://127.0.0.1:9000 --interval 5", "top --once", "top --json | jq .engine.busy_share")
)
def top(
    url: Annotated[str, typer.Argument(help="Address of the server.")] = f"http://127.0.0.1:{PORT}",
    key: Annotated[
        str | None, typer.Option(envvar="ONETRUNK_KEY", help="Secret of an API key, if the server requires one.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print what is there now, and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the statistics as JSON, a line for each look; with --once, indented.")
    ] = False,
) -> None:
    """Watch a running server: replicas, queue, latencies by stage, tenants, tasks, the last errors. Ctrl-C ends it."""
    from serving.client import Client

    with Client(url, api_key=key or None, timeout_s=10) as client:
        if once or as_json or not sys.stdout.isatty():
            print_statistics(client, interval, once=once, as_json=as_json)
        else:
            watch(client, interval)


def print_statistics(client: Client, interval: float, *, once: bool, as_json: bool) -> None:
    stop = StopSignal()
    while True:
        statistics = client.statistics()
        if as_json:
            typer.echo(to_json(statistics) if once else json.dumps(statistics, ensure_ascii=False))
        else:
            typer.echo(server_view(statistics, width=shutil.get_terminal_size().columns))
        if once or stop.wait_s(interval):
            return


def watch(client: Client, interval: float) -> None:
    """Show the statistics on the whole terminal until a signal; once it has answered, a server is waited for."""
    view, stop = "", StopSignal()
    with whole_screen():
        while True:
            size = shutil.get_terminal_size()
            try:
                view = text = server_view(client.statistics(), width=size.columns)
            except ServerError as error:
                if not view:
                    raise
                text = f"{error}\n\n{view}"
            lines = text.splitlines()[: size.lines - 1]
            sys.stdout.write(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
            sys.stdout.flush()
            if stop.wait_s(interval):
                return


@contextmanager
def whole_screen() -> Iterator[None]:
    """Use the terminal's other screen until the block ends, which leaves the first one as it was."""
    sys.stdout.write(ENTER)
    try:
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


@app.command(
    epilog=example(
        "which 4f1c0d… requests.jsonl",
        "which order-4711 logs/2026-03-*.jsonl.gz --format json",
        "which 4f1c0d… - < requests.jsonl",
    )
)
@with_store()
def which(
    options: StoreOptions,
    request_id: Annotated[str, typer.Argument(help="The X-Request-ID of the answer.")],
    logs: Annotated[list[str], typer.Argument(help="Files that `serve --log` wrote, also as .gz; - is stdin.")],
) -> None:
    """Say which version answered a request, from a server's log and the store's history."""
    from onetrunk.request_log import find_request

    with options.open_read_only() as store:
        found = find_request(store, request_id, logs)
    if options.fmt is Format.JSON:
        typer.echo(to_json([asdict(request) for request in found]))
        return
    for request in found:
        print_rows(rows_of(request), options.fmt, SHOWN if request.versions else None)
    if any(not version.confirmed for request in found for version in request.versions):
        log_to_stderr("not confirmed: the history of this store has no version of that number with that digest")


def rows_of(request: AnsweredRequest) -> list[dict[str, object]]:
    """Return a row for each version; one for a request that reached none."""
    asked: dict[str, object] = {"at": request.at, "status": request.status, "tenant": request.tenant}
    if not request.versions:
        return [{**asked, "error": request.line.get("error"), "cause": request.line.get("cause")}]
    return [{**asked, **asdict(version)} for version in request.versions]
