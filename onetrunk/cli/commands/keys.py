"""Commands for the API keys of the server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import DryRun, Yes, command_group, example
from onetrunk.cli.output import confirm, log_to_stderr, omit, print_rows
from store.errors import NotFoundError

if TYPE_CHECKING:
    from store.records.events import ApiKey

app = command_group()
key_app = command_group("API keys of the server: make, list, revoke.")
app.add_typer(key_app, name="key")


@key_app.command("add", epilog=example("key add", "key add --tenant garden --scope read --scope publish"))
@with_store(write=True, fmt=False)
def add_key(
    options: StoreOptions,
    tenant: Annotated[
        str | None, typer.Option(help="Tenant whose tasks, TENANT/…, the key may use; default: all tasks, as operator.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, publish, promote or admin; may be repeated; default: read.")
    ] = None,
) -> None:
    """Make an API key and print its secret once. The store keeps only its digest."""
    from store.registry.api_keys import new_key

    key, secret = new_key(tenant, tuple(scope or ("read",)))
    with options.open() as store:
        store.put_key(key)
    typer.echo(secret)
    log_to_stderr(f"{describe_key(key)}: its secret is not shown again")


@key_app.command("ls", epilog=example("key ls", "key ls --tenant garden --format json"))
@with_store()
def list_keys(
    options: StoreOptions,
    tenant: Annotated[str | None, typer.Option(help="List only keys of this tenant.")] = None,
) -> None:
    """List API keys, without their secrets."""
    with options.open_read_only() as store:
        rows = [omit(asdict(key), "sha256") for key in store.api_keys(tenant)]
    print_rows(rows, options.fmt)


@key_app.command("revoke", epilog=example("key revoke 0123456789abcdef"))
@with_store(write=True, fmt=False)
def revoke_key(
    options: StoreOptions,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `key ls` lists it.")],
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Revoke a key. This cannot be undone."""
    with options.open() as store:
        key = store.api_key(identifier)
        if key is None:
            raise NotFoundError(f"no API key {identifier[:40]!r}: see `onetrunk key ls`")
        if not dry_run:
            confirm(f"revoke {describe_key(key)}?", yes=yes)
            store.revoke_key(identifier)
    log_to_stderr(f"{describe_key(key)}: {'would be revoked' if dry_run else 'revoked'}")


def describe_key(key: ApiKey) -> str:
    return f"key {key.id} of {key.tenant or 'the operator'}, scopes {', '.join(key.scopes)}"
