"""Commands for the API keys of the server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from onetrunk.cli.options import STORE, Actor, Catalogue, DryRun, StoreUrl, Yes, command_group, example
from onetrunk.cli.output import Format, FormatOption, confirm, log_to_stderr, omit, print_rows
from onetrunk.stores import open_read_only, open_store
from store.errors import NotFoundError

app = command_group()
key_app = command_group("API keys of the server: make, list, revoke.")
app.add_typer(key_app, name="key")


@key_app.command("add", epilog=example("key add", "key add --tenant garden --scope read --scope publish"))
def add_key(
    tenant: Annotated[
        str | None, typer.Option(help="Whose tasks it sees, TENANT/…; default: all, as operator.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, publish, promote or admin; may be repeated; default: read.")
    ] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Make an API key and print its secret, this once. The store keeps only its digest."""
    from store.registry.api_keys import new_key

    key, secret = new_key(tenant, tuple(scope or ("read",)))
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        opened.put_key(key)
    typer.echo(secret)
    log_to_stderr(f"key {key.id} of {tenant or 'the operator'}, scopes {', '.join(key.scopes)}: it is not shown again")


@key_app.command("ls", epilog=example("key ls", "key ls --tenant garden --format json"))
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Keys of this tenant alone.")] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List API keys. What is shown here lets nobody in."""
    with open_read_only(store, catalogue=catalogue) as opened:
        rows = [omit(asdict(key), "sha256") for key in opened.api_keys(tenant)]
    print_rows(rows, fmt)


@key_app.command("revoke", epilog=example("key revoke 0123456789abcdef"))
def revoke_key(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `key ls` lists it.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Make a key worthless for ever."""
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        key = opened.api_key(identifier)
        if key is None:
            raise NotFoundError(f"no API key {identifier[:40]!r}: see `onetrunk key ls`")
        said = f"key {key.id} of {key.tenant or 'the operator'}, scopes {', '.join(key.scopes)}"
        if not dry_run:
            confirm(f"revoke {said}?", yes=yes)
            opened.revoke_key(identifier)
    log_to_stderr(f"{said}: {'would be revoked' if dry_run else 'revoked'}")
