"""Fair shares of the engine between tasks, counted in block-seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 4096  # counters of tasks without work that may lie about


@dataclass
class _Account:
    served: float
    owed: float = 0.0
    jobs: int = 0


class FairShares:
    """A virtual counter per task, and the virtual time against which a newcomer's counter begins.

    A task's counter is what it was served, in block-seconds (Sheng et al. 2024 count tokens); virtual time goes by
    1/n of real service while n tasks have work (Demers et al. 1989). A job starts where its task's counter will stand
    once the task's jobs before it are done, so that a task with many jobs waits behind its own. A task that comes back
    begins at virtual time: unused shares are not saved up. Since virtual time does not stand still, sooner or later
    every newcomer starts above a job that waits.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual time, in block-seconds."""
        self._accounts: dict[str, _Account] = {}
        self._active = 0

    def enter(self, tasks: Sequence[str], seconds: float) -> float:
        """Count one more job of these tasks, of so many seconds in all, and return where it starts."""
        start = self.now
        for task in tasks:
            account = self._accounts.setdefault(task, _Account(self.now))
            self._active += not account.jobs
            account.served = max(account.served, self.now - account.owed)
            start = max(start, account.served + account.owed)
            account.jobs += 1
            account.owed += seconds / len(tasks)
        return start

    def serve(self, tasks: Sequence[str], seconds: float, *, expected: float) -> None:
        """Charge a job's tasks with the seconds of the engine that it got; so many were expected."""
        for task in tasks:
            account = self._accounts[task]
            account.served += seconds / len(tasks)
            account.owed = max(0.0, account.owed - expected / len(tasks))

    def pass_time(self, seconds: float) -> None:
        """Let virtual time go on by what the engine's seconds are to each of the tasks that have work."""
        self.now += seconds / max(1, self._active)

    def leave(self, tasks: Sequence[str], left: float) -> None:
        """Count a job out, of which so many seconds were left undone."""
        for task in tasks:
            account = self._accounts[task]
            account.jobs -= 1
            account.owed = max(0.0, account.owed - left / len(tasks)) if account.jobs else 0.0
            self._active -= not account.jobs
            if not account.jobs and account.served <= self.now:
                del self._accounts[task]
        if not self._active:
            self._accounts.clear()
        elif len(self._accounts) > self._active + KEPT:
            self._forget()

    def _forget(self) -> None:
        self._accounts = {
            task: account for task, account in self._accounts.items() if account.jobs or account.served > self.now
        }
