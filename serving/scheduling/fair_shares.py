"""Fair shares of the engine, counted in block-seconds: between tenants, and between the tasks of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 4096  # counters of parties without work that may remain
QUANTUM_S = 1.0  # how much more than its share a task may have had before it waits for the others
TENANT_QUANTUM_S = 0.25  # and a tenant, be it with one task or with a thousand
MOST_LEAD_S = 4.0  # no more than this is held against a party that had more than its share, or owed to one with less


@dataclass
class _Account:
    served: float
    owed: float = 0.0
    requests: int = 0
    left: float = 0.0  # virtual time when its last request left
    behind: float = 0.0  # by how much its counter may be behind virtual time, though less work of it is queued


class FairShares:
    """A virtual counter per party, and the virtual time against which a newcomer's counter begins.

    A party's counter is the service that it received, in block-seconds (Sheng et al. 2024 count tokens); virtual time
    goes by 1/n of real service while n parties have work (Demers et al. 1989). A request starts where its party's
    counter will be once the party's earlier requests are done, so that one with many requests waits behind its own. A
    party that comes back begins at virtual time: unused shares are not saved up. What it had waited for in vain when it
    left, as one does whose requests end together, it is still owed, less the virtual time that it was away. Since
    virtual time goes on, sooner or later every newcomer starts above a request that waits.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual time, in block-seconds."""
        self.active = 0
        """Parties that have work."""
        self._accounts: dict[str, _Account] = {}

    def enter(self, parties: Sequence[str], seconds: float) -> float:
        """Count one more request of these parties, of so many seconds in all, and return where it starts."""
        start = self.now
        for party in parties:
            account = self._accounts.setdefault(party, _Account(self.now))
            if not account.requests:
                self.active += 1
                account.behind = min(max(0.0, self._unserved(account)), MOST_LEAD_S)
            account.served = max(account.served, self.now - max(account.owed, account.behind))
            start = max(start, account.served + account.owed)
            account.requests += 1
            account.owed += seconds / len(parties)
        return start

    def serve(self, parties: Sequence[str], seconds: float, *, expected: float) -> None:
        """Charge a request's parties with the seconds of the engine that it used; `expected` is their estimate."""
        for party in parties:
            account = self._accounts[party]
            account.served = min(account.served + seconds / len(parties), self.now + MOST_LEAD_S)
            account.owed = max(0.0, account.owed - expected / len(parties))

    def lead(self, party: str) -> float:
        """Block-seconds that a party had beyond its share; below 0 where it has work and had less."""
        return self._accounts[party].served - self.now if party in self._accounts else 0.0

    def pass_time(self, seconds: float) -> None:
        """Advance virtual time by the engine's seconds, divided by the number of parties that have work."""
        self.now += seconds / max(1, self.active)

    def leave(self, parties: Sequence[str], left: float) -> None:
        """Count a request out; `left` are the seconds of it that did not run."""
        for party in parties:
            account = self._accounts[party]
            account.requests -= 1
            account.owed = max(0.0, account.owed - left / len(parties)) if account.requests else 0.0
            if not account.requests:
                self.active -= 1
                account.left = self.now
                if account.served == self.now:
                    del self._accounts[party]
        if len(self._accounts) > self.active + KEPT:
            self._forget()

    def _unserved(self, account: _Account) -> float:
        """Return what is still owed to a party without requests; 0 or less where nothing is."""
        return 2 * account.left - account.served - self.now

    def _forget(self) -> None:
        kept = {
            name: each
            for name, each in self._accounts.items()
            if each.requests or each.served > self.now or self._unserved(each) > 0
        }
        self._accounts = (
            kept if len(kept) <= self.active + KEPT else {n: each for n, each in kept.items() if each.requests}
        )

    def __len__(self) -> int:
        """Parties whose service still counts."""
        return len(self._accounts)


class TenantShares:
    """Fair shares between tenants, and within each tenant between its tasks, on a clock of the tenant's own.

    A tenant's clock goes at the tenants' virtual time, divided by its tasks that have work: a tenant with a hundred
    tasks gets no more than one with a single task.
    """

    def __init__(self) -> None:
        self._tenants = FairShares()
        self._tasks: dict[str, tuple[FairShares, float]] = {}  # and the tenants' virtual time that its clock has seen

    def enter(self, tenant: str, tasks: Sequence[str], seconds: float) -> float:
        """Count one more request of a tenant's tasks, and return where it starts on the tenant's clock."""
        self._tenants.enter((tenant,), seconds)
        return self._of(tenant).enter(tasks, seconds)

    def serve(self, tenant: str, tasks: Sequence[str], seconds: float, *, expected: float) -> None:
        """Charge a request with the seconds of the engine that it used; `expected` is their estimate."""
        self._tenants.serve((tenant,), seconds, expected=expected)
        self._of(tenant).serve(tasks, seconds, expected=expected)

    def pass_time(self, seconds: float) -> None:
        """Advance virtual time by the engine's seconds, busy or idle."""
        self._tenants.pass_time(seconds)

    def leave(self, tenant: str, tasks: Sequence[str], left: float) -> None:
        """Count a request out; `left` are the seconds of it that did not run."""
        self._tenants.leave((tenant,), left)
        shares = self._of(tenant)
        shares.leave(tasks, left)
        if not shares:
            del self._tasks[tenant]
        elif len(self._tasks) > self._tenants.active + KEPT:
            self._tasks = {name: each for name, each in self._tasks.items() if each[0].active}

    def within(self, tenant: str) -> bool:
        """Whether a tenant had no more than a quantum beyond its share."""
        return self._tenants.lead(tenant) <= TENANT_QUANTUM_S

    def clock(self, tenant: str) -> float:
        """Virtual time among the tasks of a tenant with work."""
        return self._of(tenant).now

    def _of(self, tenant: str) -> FairShares:
        shares, seen = self._tasks.get(tenant) or (FairShares(), self._tenants.now)
        shares.pass_time(self._tenants.now - seen)
        self._tasks[tenant] = shares, self._tenants.now
        return shares
