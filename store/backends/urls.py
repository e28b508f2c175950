"""Open the backend that a store's URL names: a folder or a bucket."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import cast

from store.backends.base import Backend
from store.backends.local import LocalBackend
from store.errors import InvalidSettingError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
BUCKETS = frozenset({"s3", "gs", "az"})


def open_backend(url: str | Path) -> Backend:
    """Return the backend at this URL; a bucket's credentials come from the environment."""
    text = str(url)
    match = SCHEME.match(text)
    if match is None and text and "\0" not in text:
        return LocalBackend(Path(text))
    scheme = match.group(1) if match else ""
    if scheme not in BUCKETS:
        shown = f"{scheme}:…" if scheme else repr(text[:80])  # an address may hold a password
        raise InvalidSettingError(
            f"store {shown} cannot be opened: name a folder, or a bucket as s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
        )
    return _open_bucket(scheme, text)


def _open_bucket(scheme: str, url: str) -> Backend:
    # By name, and only now: obstore is an optional extra, and a store in a folder does not pay for its import.
    try:
        return cast(Backend, importlib.import_module("store.backends.object_store").open_object_store(url))
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise InvalidSettingError(
            f"store {scheme}:… lies in a bucket and obstore is not installed: pip install 'onetrunk[cloud]'"
        ) from None
