PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# OpenMP threads sleep at a barrier instead of spinning: on a shared machine that is an order of magnitude.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test lint servers bench clean

# Tune, cut, store and serve the embedded tasks; report in demo/report.html.
demo: $(STAMP)
	$(BIN)/onetrunk demo

# Lint, types, import contracts and the whole test suite.
test: lint servers
	$(BIN)/pytest --numprocesses 2 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What some tests run beside pip's packages: PostgreSQL and strace, installed where that can be done.
servers:
	@{ command -v strace && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || \
	{ test "$$(id -u)" = 0 && apt-get update && \
	  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postgresql strace; } >/dev/null 2>&1 || \
	echo "PostgreSQL or strace is missing and cannot be installed here: the tests that need it are skipped"

# The figures of the README, as ratios measured side by side; JSON in benchmarks/results/.
bench: $(STAMP)
	$(BIN)/python benchmarks/engine.py

clean:
	rm -rf $(VENV) demo benchmarks/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)
