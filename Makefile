# The only door: every task of this repository is one target here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := guardhouse tests training benchmarks examples docs/generate.py

.DEFAULT_GOAL := help
.PHONY: help serve worker test check format bench docs clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

# Reinstalled when the packaging or a kernel changes; Python edits need nothing (editable install).
$(VENV)/installed: $(BIN)/python pyproject.toml CMakeLists.txt $(wildcard native/* native/kernels/*)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

# Real JavaScript clients for the tests. Without Node those tests skip, saying so.
$(VENV)/installed-node: tests/node/package-lock.json | $(BIN)/python
	@if command -v npm >/dev/null; then cd tests/node && npm ci --silent; else echo "no npm: tests of JavaScript clients will skip"; fi
	@touch $@

serve: $(VENV)/installed ## install, then serve the embedded guard on http://127.0.0.1:8787 (ARGS="--port 9000" adds flags)
	$(BIN)/guardhouse serve $(ARGS)

worker: ## run examples/worker in workerd on http://127.0.0.1:8080, its env.AI answered by `make serve`
	cd examples/worker && npm install --silent --no-audit --no-fund --no-package-lock && npm start

test: $(VENV)/installed-dev $(VENV)/installed-node ## install, then run all tests (ARGS="-k name" adds flags)
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/installed-dev ## lint, types, formatting, architecture
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror native/*.[ch] native/kernels/*.[ch]
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(VENV)/installed-dev ## rewrite the sources in the house format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/clang-format -i native/*.[ch] native/kernels/*.[ch]

bench: $(VENV)/installed-dev ## run the benchmarks that need no large checkpoint
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.http

docs: $(VENV)/installed-dev ## write the pages that are made from the code: docs/cli.md, docs/http.md
	$(BIN)/python docs/generate.py

clean: ## remove everything that these targets made
	rm -rf $(VENV) build dist tests/node/node_modules examples/worker/node_modules guardhouse/ops/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
