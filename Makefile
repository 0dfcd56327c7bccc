PYTHON ?= python3.11
BIN := .venv/bin
STORE ?= runs
export PYTHONPATH :=

.PHONY: help setup demo test chaos lint format bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: .venv/.installed  ## create .venv with the pinned packages and this project (about 4 minutes, 7 GB)

.venv/.installed: pyproject.toml constraints.txt
	@echo 'installing the pinned packages into .venv: about 4 minutes, 7 GB'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(if $(MAKE_TERMOUT),,--quiet --progress-bar off) -e '.[dev]' -c constraints.txt
	touch $@

demo: setup  ## make phantoms and run a small pruned sweep on a local Ray
	cache=$$($(BIN)/cgn cache phantom --pairs 60 --size 96 --store $(STORE) | tail -n 1) && \
	$(BIN)/cgn sweep search_spaces/smoke.py --data "$$cache" --store $(STORE)

test: setup  ## fast tests, and tests with real servers
	$(BIN)/pytest -m 'not chaos and not benchmark'

chaos: setup  ## kill processes, fill disks and damage files at random moments; CGN_CHAOS_SEED repeats a run
	$(BIN)/pytest tests/chaos -m chaos

bench: setup  ## benchmarks as ratios, each file in a process of its own (25 minutes)
	failed=0; for each in tests/benchmarks/test_*.py; do \
	$(BIN)/pytest $$each -m benchmark -s -q || failed=1; done; exit $$failed

lint: setup  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and the caches of tools, not runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build
