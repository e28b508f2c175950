"""What a month costs, tenant by tenant: its own bytes, a share of what all have in common, and the engine's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from store.accounting.prices import HOURS_A_MONTH, Price, Prices
from store.accounting.report import StorageReport
from store.accounting.usage import Usage

CENT = Decimal("0.000000001")  # costs are rounded to a billionth of the currency's unit; totals add up what is shown


@dataclass(frozen=True)
class Charge:
    """One line of a bill: a tenant's bytes of one kind for a month, or its processor time from `begin` to `end`.

    Bytes and costs add up over all lines.
    """

    tenant: str
    resource: str
    description: str
    nbytes: int
    quantity: Decimal
    unit: str
    unit_price: Decimal
    cost: Decimal
    begin: str = ""
    end: str = ""


@dataclass(frozen=True)
class TenantCost:
    """What a tenant takes: storage of its own and its share of the common bytes, memory with all tasks loaded, and the
    processor time of what it asked for. Who asked without a tenant has a name in parentheses.
    """

    tenant: str
    tasks: int
    own_nbytes: int
    shared_nbytes: int
    resident_nbytes: int
    storage: Decimal
    memory: Decimal | None
    block_seconds: Decimal | None
    compute: Decimal | None
    cost: Decimal


@dataclass(frozen=True)
class Costs:
    """A month at the present size, and the processor time that was used from `used_since` to `used_until`.

    The storage of all charges is the physical bytes of the store. `cpu_seconds` are what the servers used in all.
    """

    currency: str
    storage_nbytes: int
    resident_nbytes: int
    cost: Decimal
    used_since: str | None
    used_until: str | None
    block_seconds: Decimal | None
    cores: int
    cpu_seconds: Decimal | None
    tenants: tuple[TenantCost, ...]
    charges: tuple[Charge, ...]


def costs_of(report: StorageReport, prices: Prices, usage: Usage | None = None) -> Costs:
    """Price a month at the present size, and what was used of the engine where that is known and has a price.

    Common bytes (backbones, shared blobs, overhead, what is not live) are divided in proportion to own bytes.
    """
    used = usage if prices.compute is not None else None
    groups = [group for group in report.groups if group.by == "tenant"]
    own = {group.name: group.unique_nbytes for group in groups} or {"": 0}
    shared = divide(report.total_nbytes - sum(own.values()), own)
    tasks = {group.name: group.tasks for group in groups}
    adapters = dict.fromkeys(own, 0)
    for task in report.tasks:
        adapters[task.tenant] += task.payload_nbytes
    common = divide(max(0, report.resident.shared_nbytes - sum(adapters.values())), adapters)
    charges: list[Charge] = []
    for tenant in sorted(own):
        charges.append(_charge(tenant, "storage", "blobs of its own", own[tenant], prices.storage, 1))
        charges.append(_charge(tenant, "storage", "share of common bytes", shared[tenant], prices.storage, 1))
        if prices.memory is not None:
            words = {"adapters and heads": adapters[tenant], "share of backbones": common[tenant]}
            charges += [_charge(tenant, "memory", w, n, prices.memory, HOURS_A_MONTH) for w, n in words.items()]
    if used is not None and prices.compute is not None:
        charges += [_engine(name, used, prices.compute, prices.cores) for name in sorted(used.block_seconds)]
    names = sorted({charge.tenant for charge in charges})
    rows = [_tenant(n, tasks.get(n, 0), charges, used, has_memory=prices.memory is not None) for n in names]
    return Costs(
        currency=prices.currency,
        storage_nbytes=sum(charge.nbytes for charge in charges if charge.resource == "storage"),
        resident_nbytes=sum(charge.nbytes for charge in charges if charge.resource == "memory"),
        cost=sum((row.cost for row in rows), Decimal(0)),
        used_since=used.since if used else None,
        used_until=used.until if used else None,
        block_seconds=sum(used.block_seconds.values(), Decimal(0)) if used else None,
        cores=prices.cores,
        cpu_seconds=used.cpu_seconds if used else None,
        tenants=tuple(rows),
        charges=tuple(charges),
    )


def divide(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Divide whole bytes in proportion to the weights, or evenly where all are 0; the parts add up to the total.

    What rounding leaves goes to the largest fractions, byte by byte, and of equal ones to the first names.
    """
    names = sorted(weights)
    whole = sum(weights.values())
    shares = weights if whole else dict.fromkeys(names, 1)
    whole = whole or len(names)
    parts = {name: total * shares[name] // whole for name in names}
    left = total - sum(parts.values())
    order = sorted(names, key=lambda name: (-(total * shares[name] % whole), name))
    for name in order[:left]:
        parts[name] += 1
    return parts


def _charge(tenant: str, resource: str, words: str, nbytes: int, price: Price, hours: int) -> Charge:
    quantity = Decimal(nbytes * hours) / price.quantity
    cost = (quantity * price.price).quantize(CENT)
    return Charge(tenant, resource, words, nbytes, quantity.quantize(CENT), price.per, price.price, cost)


def _engine(tenant: str, usage: Usage, price: Price, cores: int) -> Charge:
    """Return the engine's time as hours of all its cores: nothing else runs on them meanwhile."""
    hours = usage.block_seconds[tenant] * cores / 3600
    cost = (hours * price.price).quantize(CENT)
    words, quantity = "time of the engine", hours.quantize(CENT)
    return Charge(
        tenant, "compute", words, 0, quantity, price.per, price.price, cost, begin=usage.since, end=usage.until
    )


def _tenant(name: str, tasks: int, charges: Sequence[Charge], usage: Usage | None, *, has_memory: bool) -> TenantCost:
    own = {kind: [c for c in charges if (c.tenant, c.resource) == (name, kind)] for kind in FOCUS_SERVICES}
    cost = {kind: sum((charge.cost for charge in found), Decimal(0)) for kind, found in own.items()}
    stored = [charge.nbytes for charge in own["storage"]] or [0, 0]
    return TenantCost(
        tenant=name,
        tasks=tasks,
        own_nbytes=stored[0],
        shared_nbytes=stored[1],
        resident_nbytes=sum(charge.nbytes for charge in own["memory"]),
        storage=cost["storage"],
        memory=cost["memory"] if has_memory else None,
        block_seconds=usage.block_seconds.get(name, Decimal(0)) if usage else None,
        compute=cost["compute"] if usage else None,
        cost=sum(cost.values(), Decimal(0)),
    )


FOCUS_SERVICES = {
    "storage": ("Storage", "onetrunk store"),
    "memory": ("Compute", "onetrunk serving memory"),
    "compute": ("Compute", "onetrunk engine"),
}


def focus_rows(costs: Costs, report: StorageReport) -> list[dict[str, object]]:
    """Return the charges with the column names of FOCUS 1.2 where they fit.

    Storage and memory are for a month at the present size, and have no period; the engine's time has the one in which
    it was used. `x_` columns are our own, as FOCUS has custom columns begin.
    """
    return [
        {
            "BillingCurrency": costs.currency,
            "BilledCost": charge.cost,
            "ChargeCategory": "Usage",
            "ChargeDescription": f"{charge.resource}: {charge.description}",
            "ChargePeriodEnd": charge.end,
            "ChargePeriodStart": charge.begin,
            "ConsumedQuantity": charge.quantity,
            "ConsumedUnit": charge.unit,
            "ListCost": charge.cost,
            "ListUnitPrice": charge.unit_price,
            "PricingQuantity": charge.quantity,
            "PricingUnit": charge.unit,
            "ProviderName": "onetrunk",
            "ResourceId": report.store,
            "ResourceType": "store",
            "ServiceCategory": FOCUS_SERVICES[charge.resource][0],
            "ServiceName": FOCUS_SERVICES[charge.resource][1],
            "SubAccountId": charge.tenant or "-",
            "SubAccountName": charge.tenant or "tasks without a tenant",
            "x_Bytes": charge.nbytes,
        }
        for charge in costs.charges
    ]
