from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from store.accounting.costs import costs_of, divide, focus_rows
from store.accounting.prices import Price, Prices
from store.accounting.report import storage_report
from store.accounting.usage import Usage
from store.registry.store import Store

PRICES = Prices("EUR", Price(Decimal("0.023"), "GB-month", 10**9), Price(Decimal("0.005"), "GB-hour", 10**9))


@given(st.integers(0, 10**15), st.dictionaries(st.text(max_size=3), st.integers(0, 10**12), min_size=1))
def test_bytes_are_divided_whole_and_none_is_lost(total: int, weights: dict[str, int]) -> None:
    parts = divide(total, weights)
    assert sum(parts.values()) == total
    whole = sum(weights.values())
    for name, part in parts.items():
        fair = Fraction(total * weights[name], whole) if whole else Fraction(total, len(weights))
        assert abs(part - fair) < 1


def test_tenants_pay_for_every_byte_once(teams: Store) -> None:
    report = storage_report(teams)
    costs = costs_of(report, PRICES)
    assert costs.storage_nbytes == report.total_nbytes == sum(c.nbytes for c in costs.charges if c.unit == "GB-month")
    assert costs.resident_nbytes == report.resident.shared_nbytes
    assert [(row.tenant, row.tasks) for row in costs.tenants] == [("", 1), ("acme", 1), ("garden", 1)]
    assert costs.cost == sum(row.cost for row in costs.tenants) == sum(charge.cost for charge in costs.charges)
    exact = Fraction(report.total_nbytes * 23, 10**12) + Fraction(costs.resident_nbytes * 730 * 5, 10**12)
    assert abs(Fraction(costs.cost) - exact) <= len(costs.charges) * Fraction(1, 2 * 10**9)
    acme = costs.tenants[1]
    assert acme.own_nbytes == next(g.unique_nbytes for g in report.groups if (g.by, g.name) == ("tenant", "acme"))


def test_a_bill_has_the_columns_of_focus_and_its_lines_add_up(teams: Store) -> None:
    report = storage_report(teams)
    costs = costs_of(report, PRICES)
    rows = focus_rows(costs, report)
    assert sum(Decimal(str(row["BilledCost"])) for row in rows) == costs.cost
    assert {row["SubAccountId"] for row in rows} == {"-", "acme", "garden"}
    assert {"BillingCurrency", "ChargeCategory", "ConsumedQuantity", "ConsumedUnit", "ServiceCategory"} <= rows[
        0
    ].keys()
    assert {(row["ServiceCategory"], row["ConsumedUnit"]) for row in rows} == {
        ("Storage", "GB-month"),
        ("Compute", "GB-hour"),
    }


def test_without_a_price_of_memory_there_is_none_and_without_tasks_all_is_common(tmp_path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        report = storage_report(store)
    costs = costs_of(report, Prices("EUR", PRICES.storage))
    (row,) = costs.tenants
    assert (row.tenant, row.own_nbytes, row.shared_nbytes, row.memory) == ("", 0, report.total_nbytes, None)


def test_who_asked_pays_for_the_time_of_the_engine_as_hours_of_its_cores(teams: Store) -> None:
    report = storage_report(teams)
    usage = Usage(
        "log", "2026-03-01T00:00:00.000+00:00", "2026-04-01T00:00:00.000+00:00", {},
        {"acme": Decimal(1800), "(operator)": Decimal("0.5")}, cpu_seconds=Decimal(5000),
    )  # fmt: skip
    priced = replace(PRICES, compute=Price(Decimal("0.04"), "vCPU-hour", 1), cores=4)
    costs = costs_of(report, priced, usage)
    assert {row.tenant: row.compute for row in costs.tenants} == {
        "": 0, "acme": Decimal("0.08"), "garden": 0, "(operator)": Decimal("0.000022222"),
    }  # fmt: skip
    assert (costs.block_seconds, costs.cores, costs.cpu_seconds) == (Decimal("1800.5"), 4, 5000)
    assert costs.cost == sum(row.cost for row in costs.tenants) == sum(charge.cost for charge in costs.charges)
    assert costs.storage_nbytes == report.total_nbytes
    rows = [row for row in focus_rows(costs, report) if row["ConsumedUnit"] == "vCPU-hour"]
    assert [(row["SubAccountId"], row["ConsumedQuantity"], row["x_Bytes"]) for row in rows] == [
        ("(operator)", Decimal("0.000555556"), 0), ("acme", Decimal("2.000000000"), 0),
    ]  # fmt: skip
    assert {(row["ChargePeriodStart"], row["ChargePeriodEnd"]) for row in rows} == {(usage.since, usage.until)}
    without = costs_of(report, PRICES, usage)
    assert (without.block_seconds, without.tenants[0].compute) == (None, None)
