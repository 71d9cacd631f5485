# Everything runs from .venv, which every target sets up first (under a second when it is there already).
# PYTHON=python3.12 picks the Python, INPUT=FILE the demo's file, ARGS=... goes to pytest or the benchmarks.

.DEFAULT_GOAL := help
.PHONY: help setup check format test demo docs bench clean lock

VENV_PYTHON := .venv/bin/python
ARGS ?=
export PYTHON INPUT

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: PYTHON=python3.12  INPUT=payments.csv  ARGS='-k money'"

setup: ## install everything into .venv (about 2 minutes the first time)
	@sh scripts/setup.sh

check: setup ## ruff, mypy and the import rules
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())' --no-cache

format: setup ## let ruff format and mend what it can
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

# A file at a time for each worker, in the order that tests/conftest.py gives them. Three workers for two cores: they
# wait for disks and servers as much as they compute. Compiled code is kept, whatever the environment says: hundreds of
# processes would compile all of it anew, and so would each worker.
test: ## run the tests (ARGS='-k money -x' narrows them)
	@sh scripts/setup.sh --needs-mongodb
	@sh scripts/setup_spark.sh
	env -u PYTHONDONTWRITEBYTECODE $(VENV_PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

demo: ## simulated business, or INPUT=FILE, through events, lake, reports and notebook
	@sh scripts/setup.sh --needs-mongodb
	@$(VENV_PYTHON) -m pipelines.demo $${INPUT:+--input "$$INPUT"}

docs: setup ## write the tables of docs/data-dictionary.md anew
	$(VENV_PYTHON) -m scripts.data_dictionary

bench: ## measure the ratios, each pair side by side in one run
	@sh scripts/setup.sh --needs-mongodb
	@$(VENV_PYTHON) -m benchmarks $(ARGS)

clean: ## stop the embedded MongoDB of ./var, then delete ./var (its ledger too), .venv and all caches
	@sh scripts/clean.sh

lock: setup ## pin anew in constraints.txt what pyproject.toml asks for (ARGS=--upgrade takes newer versions)
	@sh scripts/lock.sh $(ARGS)
