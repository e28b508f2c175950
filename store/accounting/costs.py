"""What a month costs, tenant by tenant: each its own bytes, and a share of what all have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from store.accounting.prices import HOURS_A_MONTH, Price, Prices
from store.accounting.report import StorageReport

CENT = Decimal("0.000000001")  # costs are rounded to a billionth of the currency's unit; totals add up what is shown


@dataclass(frozen=True)
class Charge:
    """One line of a bill: a tenant's bytes of one kind for a month. Its bytes and costs add up over all lines."""

    tenant: str
    resource: str
    description: str
    nbytes: int
    quantity: Decimal
    unit: str
    unit_price: Decimal
    cost: Decimal


@dataclass(frozen=True)
class TenantCost:
    """What a tenant takes: storage of its own and its share of the common bytes, and memory with all tasks loaded."""

    tenant: str
    tasks: int
    own_nbytes: int
    shared_nbytes: int
    resident_nbytes: int
    storage: Decimal
    memory: Decimal | None
    cost: Decimal


@dataclass(frozen=True)
class Costs:
    """A month at the present size; the storage of all charges is the physical bytes of the store."""

    currency: str
    storage_nbytes: int
    resident_nbytes: int
    cost: Decimal
    tenants: tuple[TenantCost, ...]
    charges: tuple[Charge, ...]


def costs_of(report: StorageReport, prices: Prices) -> Costs:
    """Price a month at the present size.

    Common bytes (backbones, shared blobs, overhead, what is not live) are divided in proportion to own bytes.
    """
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
    rows = [_tenant(name, tasks.get(name, 0), charges, has_memory=prices.memory is not None) for name in sorted(own)]
    return Costs(
        currency=prices.currency,
        storage_nbytes=sum(charge.nbytes for charge in charges if charge.resource == "storage"),
        resident_nbytes=sum(charge.nbytes for charge in charges if charge.resource == "memory"),
        cost=sum((row.cost for row in rows), Decimal(0)),
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


def _tenant(name: str, tasks: int, charges: Sequence[Charge], *, has_memory: bool) -> TenantCost:
    own = [charge for charge in charges if charge.tenant == name]
    stored = [charge for charge in own if charge.resource == "storage"]
    loaded = [charge for charge in own if charge.resource == "memory"]
    storage = sum((charge.cost for charge in stored), Decimal(0))
    memory = sum((charge.cost for charge in loaded), Decimal(0))
    return TenantCost(
        tenant=name,
        tasks=tasks,
        own_nbytes=stored[0].nbytes,
        shared_nbytes=stored[1].nbytes,
        resident_nbytes=sum(charge.nbytes for charge in loaded),
        storage=storage,
        memory=memory if has_memory else None,
        cost=storage + memory,
    )


FOCUS_SERVICES = {"storage": ("Storage", "onetrunk store"), "memory": ("Compute", "onetrunk serving memory")}


def focus_rows(costs: Costs, report: StorageReport) -> list[dict[str, object]]:
    """Return the charges with the column names of FOCUS 1.2 where they fit: a month at the present size, no period.

    `x_` columns are our own, as FOCUS has custom columns begin.
    """
    return [
        {
            "BillingCurrency": costs.currency,
            "BilledCost": charge.cost,
            "ChargeCategory": "Usage",
            "ChargeDescription": f"{charge.resource}: {charge.description}",
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
