"""Is the process alive, and would it answer a prediction now? Answered from the event loop, which waits for nothing."""

from __future__ import annotations

import threading
import time

from serving.runtime.predictor import Predictor
from serving.runtime.served_versions import ServedVersions
from store.errors import OnetrunkError, OverloadedError

ASK_S = 1.0  # how long an answer of the store counts


class StoreProbe:
    """Asks whether the store answers, on a thread, while somebody wants to know."""

    def __init__(self, versions: ServedVersions) -> None:
        self._versions = versions
        self._answered = time.monotonic()
        self._problem: str | None = None
        self._asking = False

    def problem(self) -> str | None:
        """Return why the store does not answer, as of the last second."""
        if not self._asking and time.monotonic() - self._answered >= ASK_S:
            self._asking = True
            threading.Thread(target=self._ask, name="store probe", daemon=True).start()
        return self._problem

    def _ask(self) -> None:
        try:
            self._versions.generation()  # waits for a tenth of a second at most; raises once what was known is too old
            self._problem = None
        except OnetrunkError as error:
            self._problem = f"the store does not answer ({type(error).__name__})"
        finally:
            self._answered = time.monotonic()
            self._asking = False


class Health:
    """What `/healthz` and `/readyz` answer; with keys, no more than whether."""

    def __init__(self, predictor: Predictor, *, keys: bool) -> None:
        self._predictor, self._probe = predictor, StoreProbe(predictor.versions)
        shown = [{"backbone": record.name, "fingerprint": record.id.fingerprint} for record in predictor.records]
        self._shown: dict[str, object] = {} if keys else {**shown[0]} if len(shown) == 1 else {"backbones": shown}

    def alive(self) -> tuple[int, dict[str, object]]:
        """The process answers; on a server without keys, which backbones it holds."""
        return 200, {"status": "ok", **self._shown}

    def ready(self) -> tuple[int, dict[str, object]]:
        """A prediction would be answered: the engine runs, images would be decoded, known versions still hold."""
        if (problem := self._problem()) is not None:
            return 503, {"status": "not ready", "reason": problem}
        store = self._predictor.versions.status()
        # A balancer that takes this replica out would take out all, though known tasks are answered everywhere.
        away = {} if store.answers else {"store": f"has not answered for {store.age_s:.0f} s: known tasks go on"}
        return 200, {"status": "ready", **away}

    def _problem(self) -> str | None:
        try:
            self._predictor.check()
            self._predictor.check_room()
        except (RuntimeError, OverloadedError) as error:
            return str(error)
        return self._probe.problem()
