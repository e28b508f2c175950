"""What a request may send, bounded before it is parsed, and whether a form comes from a page of ours."""

from __future__ import annotations

import asyncio
import hmac
import urllib.parse
from collections.abc import Mapping

from starlette.requests import Request

from serving.http.browser_sessions import BrowserSession
from serving.http.errors import timed_out, too_large
from store.errors import FormatError, NotAllowedError

MOST_BYTES = 16 << 10  # of a form or a query
MOST_FIELDS = 32
FORM_S = 10.0
FORM = "application/x-www-form-urlencoded"


def read_query(request: Request) -> dict[str, str]:
    return parse_fields(request.scope["query_string"])


async def read_form(request: Request) -> dict[str, str]:
    """Read a form's fields; raise where it is too large, too slow, or not a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise FormatError(f"content type {kind[:60]!r} is not {FORM}: send the page's own form")
    body = b""
    try:
        async with asyncio.timeout(FORM_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise too_large(f"a form is larger than {MOST_BYTES:,} bytes: send less")
    except TimeoutError:
        raise timed_out(f"the form did not come within {FORM_S:g} s: send it again") from None
    return parse_fields(body)


def parse_fields(encoded: bytes) -> dict[str, str]:
    """Return the fields by name, the last of each; a field that is not valid text is refused."""
    if len(encoded) > MOST_BYTES:
        raise FormatError(f"the query is longer than {MOST_BYTES:,} bytes: send less")
    try:
        pairs = urllib.parse.parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise FormatError(f"the fields are not UTF-8 text, or more than {MOST_FIELDS}: send fewer") from None
    return dict(pairs)


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise where a browser says that the form comes from a page of another site."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and urllib.parse.urlsplit(origin).netloc != headers.get("host")
    if foreign:
        raise NotAllowedError("this form was sent from a page of another site: open the console and send it from there")


def check_token(session: BrowserSession | None, fields: Mapping[str, str]) -> None:
    """Raise unless the form has the token of the session's own pages."""
    given = fields.get("token", "").encode(errors="replace")
    if session is None or not hmac.compare_digest(given, session.token.encode()):
        raise NotAllowedError("this form is not from a page of this session: reload the page and send it again")
