# Every target does the set-up that it needs; nothing is installed twice.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup sweep test test-slow test-cluster test-postgres bench check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## create .venv and install twofold into it

sweep: $(INSTALLED) ## run the default sweep on the digits and report on it
	@$(BIN)/twofold sweep search_spaces/digits.yaml

# Tests of a file share what is dear to make: sweeps, servers, a Ray.
test: $(INSTALLED) ## run the tests, two files at a time (twelve minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED) ## run the tests that kill and stop whole sweeps (six minutes)
	@$(BIN)/python -m pytest -m slow

test-cluster: $(INSTALLED) ## run real clusters in namespaces of this machine (root, rsync, sshd; ten minutes)
	@$(BIN)/python -m pytest tests/cluster -rs

test-postgres: $(INSTALLED) ## test MLflow on PostgreSQL, where its server is installed
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[postgres]'
	@$(BIN)/python -m pytest -rs tests/postgres

bench: $(INSTALLED) ## measure the speed of everything, and write benchmarks/RESULTS.md (hours; ARGS='--repeats 1')
	@$(BIN)/python benchmarks/run.py $(ARGS)

check: $(INSTALLED) ## format, lint, types, import rules and the content of the wheel
	@echo "== format"       && $(BIN)/ruff format --check .
	@echo "== lint"         && $(BIN)/ruff check .
	@echo "== types"        && $(BIN)/mypy
	@echo "== import rules" && $(BIN)/lint-imports --no-logo
	@echo "== wheel"        && $(BIN)/python tests/check_wheel.py

format: $(INSTALLED) ## rewrite the code in the project's format and mend what lint can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove caches and build products; results and .venv stay
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

# The stamp is written last, so that an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "twofold needs Python 3.11 or newer, and '$(PYTHON)' is not. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@echo "Installing twofold and what it needs into .venv: some minutes and about 7 GB, mostly PyTorch."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)
