"""The supported methods, PEFT's and the custom ones, and the check of their configs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from store.adapters.methods.custom import CUSTOM
from store.adapters.methods.peft import PEFT, REASONS
from store.adapters.methods.spec import FLOATS, OFF, PREFIX, Method
from store.adapters.methods.targets import Config, check_patterns, matches, resolve_pattern, shorten
from store.errors import UnservedAdapterError

__all__ = ["FLOATS", "OFF", "PREFIX", "SUPPORTED", "Config", "Method", "matches", "resolve_pattern", "supported_method"]


def supported_method(config: Config) -> Method:
    """Return the method of the config, or raise `UnservedAdapterError` where no form of it would be exact."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in SUPPORTED:
        reason = f" ({REASONS[kind]})" if isinstance(kind, str) and kind in REASONS else ""
        raise UnservedAdapterError(
            f"peft_type {shorten(kind)} has no exact form{reason}; supported are {', '.join(SUPPORTED)}: tune with one"
        )
    method = SUPPORTED[kind]
    for option, value in config.items():
        if option not in method.free and value not in method.limited.get(option, OFF):
            remedy = method.remedies.get(option, f"tune {kind} without it")
            raise UnservedAdapterError(f"option {option[:80]!r} = {shorten(value)} has no exact form: {remedy}")
    check_patterns(config)
    return method


SUPPORTED: Mapping[str, Method] = MappingProxyType({**PEFT, **CUSTOM})
"""By peft_type."""
