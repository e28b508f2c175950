from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from store.accounting.prices import read_prices
from store.errors import FormatError, NotFoundError

STORAGE = '[storage]\nprice = 0.023\nper = "GB-month"\n'
WHOLE = f"""currency = "EUR"
{STORAGE}[memory]
price = 0.005
per = "GiB-hour"
[compute]
price = 0.04
per = "vCPU-hour"
"""


def test_prices_are_exact_decimals_with_their_units(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(WHOLE)
    prices = read_prices(tmp_path / "prices.toml")
    assert (prices.currency, prices.storage.price, prices.storage.quantity) == ("EUR", Decimal("0.023"), 10**9)
    assert prices.memory is not None
    assert prices.compute is not None
    assert (prices.memory.quantity, prices.compute.per) == (2**30, "vCPU-hour")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (WHOLE.replace("GB-month", "GB-week"), "storage is priced per 'GB-week', which is not a unit of it: write GB-"),
        (WHOLE.replace("GiB-hour", "GB-month"), "memory is priced per 'GB-month', which is not a unit of it"),
        (WHOLE.replace('"vCPU-hour"', "3600"), "compute is priced per 3600"),
        (WHOLE.replace("0.023", "-1"), "storage has price -1: write a number from 0"),
        (WHOLE.replace("0.023", "nan"), "storage has price NaN"),
        (WHOLE.replace("0.023", "1e99"), "storage has price 1E"),
        (WHOLE.replace("0.023", '"cheap"'), "storage has price cheap"),
        (WHOLE.replace("0.023", "true"), "storage has price True"),
        (WHOLE + "cores = 0", "compute has cores 0: write a whole number from 1 to 4096"),
        (WHOLE + "cores = 1.5", "compute has cores 1.5"),
        (WHOLE + "cores = true", "compute has cores True"),
        (WHOLE.replace('per = "GB-month"', "cores = 2"), r"\[storage\] must have exactly price and per"),
        (WHOLE.replace('per = "GB-month"', ""), r"\[storage\] must have exactly price and per"),
        (WHOLE.replace("[memory]", "[disk]"), "'disk' is not priced: known are currency, storage, memory, compute"),
        ('currency = "EUR"\nstorage = 0.023\n', r"\[storage\] must have exactly price and per"),
        (WHOLE.replace("EUR", "euro"), "currency 'euro' is not a code of ISO 4217"),
        (STORAGE, "currency None is not a code"),
        ('currency = "EUR"\n', "has no price of storage"),
        ("currency = ", "is not TOML"),
        ("\x00", "is not TOML"),
        ("#" * 100_000, "has more than 65536 bytes"),
    ],
)
def test_a_wrong_file_of_prices_is_refused_with_what_to_write(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(FormatError, match=told):
        read_prices(tmp_path / "prices.toml")


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="is not TOML"):
        read_prices(tmp_path / "prices.toml")
    with pytest.raises(NotFoundError, match=r"none.toml cannot be read \(No such file"):
        read_prices(tmp_path / "none.toml")
