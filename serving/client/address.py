"""Where a server is: a URL that is checked before anything is sent."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

import httpx

from store.errors import ServerError

SHOWN = 200  # characters


@dataclass(frozen=True)
class Address:
    """`url` is what messages show, `base` what requests begin with; neither holds a password."""

    url: str
    base: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raise `ServerError` where it is not the address of a server."""
        try:
            parts = urllib.parse.urlsplit(url)
            host = parts.hostname
            is_valid = parts.scheme in ("http", "https") and host is not None and host.encode("idna") != b""
            netloc = parts.netloc.rpartition("@")[2]
            base = f"{parts.scheme}://{netloc}{urllib.parse.quote(parts.path.rstrip('/'))}"
            is_valid = is_valid and parts.port != 0 and httpx.URL(base).host != ""
        except (ValueError, AttributeError, TypeError, httpx.InvalidURL):  # UnicodeError is a ValueError
            is_valid = False
        if not is_valid or any(character.isspace() for character in url):
            raise ServerError(f"{str(url)[:SHOWN]!r} is not a valid server address: write http://HOST:PORT")
        return cls(urllib.parse.urlunsplit(parts._replace(netloc=netloc)), base)
