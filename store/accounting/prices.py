"""Prices from a small TOML file: of storage, memory and processors, each with the unit that it is for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from store.accounting.given_file import read_given
from store.errors import FormatError

HOURS_A_MONTH = 730
CURRENCY = re.compile(r"[A-Z]{3}")
MOST = Decimal(10) ** 9
MOST_CORES = 4096
MAX_NBYTES = 1 << 16
UNITS: Mapping[str, Mapping[str, int]] = {
    "storage": {"GB-month": 10**9, "GiB-month": 2**30, "TB-month": 10**12, "TiB-month": 2**40},
    "memory": {"GB-hour": 10**9, "GiB-hour": 2**30},
    "compute": {"vCPU-hour": 1},
}
"""Resource -> its units, and how many bytes or processors one is."""
EXAMPLE = 'currency = "EUR", and a table such as [storage] with price = 0.023 and per = "GB-month"'


@dataclass(frozen=True)
class Price:
    """The price of one unit, such as a GB-month; `quantity` is how many bytes or processors one unit is."""

    price: Decimal
    per: str
    quantity: int


@dataclass(frozen=True)
class Prices:
    """What resources cost in one currency; None where the file has no price. An engine has `cores` processors."""

    currency: str
    storage: Price
    memory: Price | None = None
    compute: Price | None = None
    cores: int = 1


def read_prices(path: Path) -> Prices:
    """Read the file, or raise with what is wrong and what to write."""
    data = read_given(
        path,
        limit=MAX_NBYTES,
        missing="name a file of prices in TOML",
        too_large=f", too many for prices: write {EXAMPLE}",
    )
    try:
        value = tomllib.loads(data.decode(), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError, ArithmeticError) as error:
        raise FormatError(f"{path} is not TOML ({str(error)[:80]}): write {EXAMPLE}") from None
    return parse_prices(value, str(path))


def parse_prices(value: Mapping[str, Any], source: str) -> Prices:
    unknown = sorted(value.keys() - {"currency", *UNITS})
    if unknown:
        raise FormatError(f"{source}: {unknown[0]!r:.60} is not priced: known are currency, {', '.join(UNITS)}")
    currency = value.get("currency")
    if not isinstance(currency, str) or not CURRENCY.fullmatch(currency):
        raise FormatError(f"{source}: currency {currency!r:.40} is not a code of ISO 4217: write such as EUR or USD")
    if "storage" not in value:
        raise FormatError(f"{source} has no price of storage: write {EXAMPLE}")
    cores, compute = 1, value.get("compute")
    if isinstance(compute, Mapping) and "cores" in compute:
        cores = compute["cores"]
        if type(cores) is not int or not 1 <= cores <= MOST_CORES:
            raise FormatError(f"{source}: compute has cores {cores!s:.40}: write a whole number from 1 to {MOST_CORES}")
        value = {**value, "compute": {key: item for key, item in compute.items() if key != "cores"}}
    priced = {resource: _price(value[resource], resource, source) for resource in UNITS if resource in value}
    return Prices(currency, **priced, cores=cores)


def _price(table: object, resource: str, source: str) -> Price:
    units = UNITS[resource]
    known = ", ".join(units)
    if not isinstance(table, Mapping) or table.keys() != {"price", "per"}:
        raise FormatError(f"{source}: [{resource}] must have exactly price and per: per is one of {known}")
    price, per = table["price"], table["per"]
    if type(price) not in (int, Decimal) or not (Decimal(price).is_finite() and 0 <= price <= MOST):
        raise FormatError(f"{source}: {resource} has price {price!s:.40}: write a number from 0 to {MOST}")
    if not isinstance(per, str) or per not in units:
        raise FormatError(f"{source}: {resource} is priced per {per!r:.40}, which is not a unit of it: write {known}")
    return Price(Decimal(price), per, units[per])
