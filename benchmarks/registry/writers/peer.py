"""MLflow's registry on SQLite with its defaults; the arguments are its URL and, to create them and end, model names."""

from __future__ import annotations

import logging
import sys

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from benchmarks.registry.writers.loop import answer

logging.disable(logging.INFO)  # alembic's, at every start


def main() -> None:
    url, *models = sys.argv[1:]
    store = SqlAlchemyStore(url)
    for name in models:
        store.create_registered_model(name)
    if models:
        return

    def register(task: str) -> int:
        return int(store.create_model_version(task, source="models/flowers").version)

    answer(register)


if __name__ == "__main__":
    main()
