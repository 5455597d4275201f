# `make run` and `make test` do all their own set-up; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
CONFIG ?= monitor.yaml
# Four at a time on two cores: most of the time is spent waiting for deadlines of real sockets.
PYTEST_FLAGS ?= -n 4 --dist worksteal
UV ?= uv
# The tests start hundreds of processes: each would compile the whole program anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: run
run: $(VENV)/.run ## Start the daemon: with monitor.yaml if there is one, else the demo
	@if [ -e $(CONFIG) ]; then exec $(BIN)/monitor run -c $(CONFIG); else exec $(BIN)/monitor demo; fi

.PHONY: test
test: $(VENV)/.dev system-packages ## Lint, type-check and run every test (five minutes on two cores)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@# In a fresh clone each of pytest's processes would compile every module: once is enough, beside mypy.
	$(BIN)/mypy & types=$$!; [ -d tests/__pycache__ ] || $(BIN)/pytest --collect-only -qq >/dev/null 2>&1 || true; wait $$types
	$(BIN)/pytest $(PYTEST_FLAGS)

.PHONY: check
check: $(VENV)/.dev ## Lint, format check and types only
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/.dev ## Mend what the linter can mend
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.PHONY: prove
prove: $(VENV)/.dev system-packages ## The long proofs: many kills, long fuzzing, seeded and bounded
	$(BIN)/pytest -m prove --timeout 1800 -p no:xdist

.PHONY: bench
bench: $(VENV)/.dev $(BENCH_VENV)/.done ## Speed, memory and how right a TTFT is, beside other clients (half an hour)
	$(BIN)/python -m benchmarks

.PHONY: lock
lock: ## Resolve the lock files again (needs uv)
	$(UV) pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --generate-hashes --no-header $(LOCK_FLAGS) --extra parquet --extra vertex --group dev pyproject.toml -o requirements-dev.lock
	$(UV) pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --generate-hashes --no-header $(LOCK_FLAGS) -c requirements-dev.lock --extra parquet --extra vertex --group build pyproject.toml -o requirements.lock

.PHONY: system-packages
system-packages: # real Prometheus and systemd for the tests that want them
	@deploy/install-test-packages

.PHONY: clean
clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) $(BENCH_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A machine that lacks a tool gets the Debian package's name, not a traceback.
.PHONY: tools
tools:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing: apt-get install python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11: apt-get install python3, or make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: venv is missing: apt-get install python3-venv" >&2; exit 2; }
	@command -v git >/dev/null || { echo "make: git is missing: apt-get install git" >&2; exit 2; }

$(VENV)/bin/python: | tools
	$(PYTHON) -m venv $(VENV)

define install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "make: installing into $(VENV) (once)"
	$(call install,requirements.lock)
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "make: installing the developers' tools into $(VENV) (once)"
	$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.run

# GuideLLM wants torch, some 6 GB. What cannot be installed is missing from the tables, which say so.
$(BENCH_VENV)/.done: benchmarks/requirements.txt | tools
	@echo "make: installing the clients to measure beside into $(BENCH_VENV) (once)"
	$(PYTHON) -m venv $(BENCH_VENV)
	@if $(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<; then touch $@; \
	else echo "make: some clients could not be installed; the benchmark goes on without them" >&2; fi
