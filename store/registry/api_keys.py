"""API keys: 256 random bits, shown once; the store keeps their digest, tenant and scopes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from store.errors import InvalidNameError, InvalidSettingError, UnknownKeyError
from store.records.bounds import check_list
from store.records.events import ApiKey, now
from store.records.refs import check_name
from store.registry.catalogue_reader import CatalogueReader

SCOPES = ("read", "publish", "promote", "admin")
SECRET = re.compile(r"ot_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
NOBODY = ApiKey(id="", tenant=None, scopes=(), sha256="0" * 64, created_at="")
ANONYMOUS = ApiKey(id="", tenant=None, scopes=("read",), sha256="", created_at="")
"""The key of every caller where the server requires none: it may read everything and change nothing."""


def new_key(tenant: str | None, scopes: tuple[str, ...]) -> tuple[ApiKey, str]:
    """Make a key and its secret, which is kept nowhere; a key without a tenant is the operator's and sees all tasks."""
    if tenant is not None and "/" in check_name(tenant, "tenant"):
        raise InvalidNameError(
            f"tenant {tenant[:80]!r} has a '/': give what stands before it in the names of its tasks"
        )
    if isinstance(scopes, str):
        raise InvalidSettingError(f"scopes {scopes!r} is one string: give a tuple, ({scopes!r},)")
    check_list("scopes", scopes)
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise InvalidSettingError(f"scopes {', '.join(scopes)[:80]!r}: name one or more of {', '.join(SCOPES)}")
    identifier = secrets.token_hex(8)
    secret = f"ot_{identifier}_{secrets.token_urlsafe(32)}"
    ordered = tuple(scope for scope in SCOPES if scope in scopes)
    return ApiKey(identifier, tenant, ordered, digest_of(secret), now()), secret


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def authenticate(store: CatalogueReader, secret: str) -> ApiKey:
    """Return the key of the secret; malformed, unknown, wrong and revoked ones cost the same and get the same error."""
    match = SECRET.fullmatch(secret)
    key = store.api_key(match[1] if match else NOBODY.id) or NOBODY
    if not hmac.compare_digest(digest_of(secret), key.sha256) or key.revoked_at is not None:
        raise UnknownKeyError("this API key is not valid: send `Authorization: Bearer ot_…` with one that is")
    return key


def allows(key: ApiKey, scope: str) -> bool:
    return scope in key.scopes or "admin" in key.scopes
