"""Fair shares of the engine between tasks, counted in block-seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 4096  # counters of tasks without work that may remain


@dataclass
class _Account:
    served: float
    owed: float = 0.0
    requests: int = 0


class FairShares:
    """A virtual counter per task, and the virtual time against which a newcomer's counter begins.

    A task's counter is the service that it received, in block-seconds (Sheng et al. 2024 count tokens); virtual time
    goes by 1/n of real service while n tasks have work (Demers et al. 1989). A request starts where its task's counter
    will be once the task's earlier requests are done, so that a task with many requests waits behind its own. A task
    that comes back begins at virtual time: unused shares are not saved up. Since virtual time goes on, sooner or later
    every newcomer starts above a request that waits.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual time, in block-seconds."""
        self._accounts: dict[str, _Account] = {}
        self._active = 0

    def enter(self, tasks: Sequence[str], seconds: float) -> float:
        """Count one more request of these tasks, of so many seconds in all, and return where it starts."""
        start = self.now
        for task in tasks:
            account = self._accounts.setdefault(task, _Account(self.now))
            self._active += not account.requests
            account.served = max(account.served, self.now - account.owed)
            start = max(start, account.served + account.owed)
            account.requests += 1
            account.owed += seconds / len(tasks)
        return start

    def serve(self, tasks: Sequence[str], seconds: float, *, expected: float) -> None:
        """Charge a request's tasks with the seconds of the engine that it used; `expected` is the estimate of these."""
        for task in tasks:
            account = self._accounts[task]
            account.served += seconds / len(tasks)
            account.owed = max(0.0, account.owed - expected / len(tasks))

    def pass_time(self, seconds: float) -> None:
        """Advance virtual time by the engine's seconds, divided by the number of tasks that have work."""
        self.now += seconds / max(1, self._active)

    def leave(self, tasks: Sequence[str], left: float) -> None:
        """Count a request out; `left` are the seconds of it that did not run."""
        for task in tasks:
            account = self._accounts[task]
            account.requests -= 1
            account.owed = max(0.0, account.owed - left / len(tasks)) if account.requests else 0.0
            self._active -= not account.requests
            if not account.requests and account.served <= self.now:
                del self._accounts[task]
        if not self._active:
            self._accounts.clear()
        elif len(self._accounts) > self._active + KEPT:
            self._forget()

    def _forget(self) -> None:
        self._accounts = {
            task: account for task, account in self._accounts.items() if account.requests or account.served > self.now
        }
