PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup
# The scripts in .ci/ make their environments with the same interpreter.
export PYTHON
# OpenMP threads sleep at a barrier instead of spinning: on a shared machine that is an order of magnitude.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test unit system lint servers wheel bench constraints clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	  printf '  %-12s %s\n' "$$name" "$$text"; done

demo: $(STAMP) ## Tune, cut, store and serve the embedded tasks; the report is demo/report.html.
	$(BIN)/onetrunk demo

demo-quick: $(STAMP) ## The same on two small tasks, in under a minute.
	$(BIN)/onetrunk demo --quick

test: lint servers ## Lint, types, import contracts and all tests; what .ci/run calls.
	$(PYTEST)

unit: $(STAMP) servers ## The unit tests alone.
	$(PYTEST) tests/unit

system: $(STAMP) servers ## Crashes, power loss, concurrency, hostile input, deployment and the pages' commands.
	$(PYTEST) tests/system

lint: $(STAMP) ## Style, format, types and import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy typing_tests
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

servers: ## Install what some tests run beside pip's packages, PostgreSQL and strace, where that can be done.
	@{ command -v strace && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || \
	{ if test "$$(id -u)" = 0; then root=; else root='sudo --non-interactive'; fi; \
	  $$root apt-get update && $$root env DEBIAN_FRONTEND=noninteractive \
	    apt-get install --yes --no-install-recommends postgresql strace; } >/dev/null 2>&1 || \
	echo "PostgreSQL or strace is missing and cannot be installed here: the tests that need it are skipped"

wheel: ## Build the wheel, install it into a new environment, and run the short demo without the checkout.
	.ci/wheel

bench: $(STAMP) ## Measure the README's figures, as ratios taken side by side; JSON in benchmarks/results/.
	$(BIN)/python -m benchmarks.engine.batches

constraints: ## Pin today's versions in constraints.txt; PYTHON should be the oldest one supported.
	.ci/constraints

clean: ## Remove the environment, the demo and every cache.
	rm -rf $(VENV) demo demo-quick benchmarks/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt .ci/install
	.ci/install $(VENV) --editable '.[dev]'
	touch $(STAMP)
