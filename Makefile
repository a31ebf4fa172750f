# `make help` lists every target. Each one installs first if .venv is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AIRFLOW_VENV := .venv-airflow
AIRFLOW := $(AIRFLOW_VENV)/bin/airflow
OLD_DUCKDB := .venv-old-duckdb
DAGSTER_VENV := .venv-dagster
DAGSTER := $(DAGSTER_VENV)/bin/dagster
CSV ?=
ARGS ?=
# all unit tests but the matrices of crash points, one pull, some pushes
FAST := tests/unit --ignore=tests/unit/upsert_outbox/test_crash_points.py \
  --ignore=tests/unit/upsert_outbox/test_outbox_machine.py tests/sync/commands/test_push_files.py \
  tests/sync/commands/test_pull_command.py::test_pull_says_what_it_did_in_one_object

# variables of this command line (ARGS=…) must not reach the makes that the suite runs
MAKEOVERRIDES :=
unexport ARGS CSV

.DEFAULT_GOAL := help
.PHONY: help setup check test test-fast lint types sync push bench lock clean test-airflow test-dagster test-destinations test-old-duckdb

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-18s %s\n",$$1,$$2}' $(MAKEFILE_LIST)

LOCKS := config/requirements.lock config/requirements-dev.lock

$(STAMP): pyproject.toml config/requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@echo "Installing into $(VENV) (a minute or two, once) ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r config/requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP) ## Create .venv and install everything, tests included

sync: $(STAMP) ## Pull, run all push jobs; without a key, pull the sandbox
	@$(BIN)/python -m pipelines.demo $(ARGS)

push: $(STAMP) ## Push a file: make push CSV=people.csv ARGS=--dry-run
	@test -n "$(CSV)" || { echo "Name the file: make push CSV=people.csv" >&2; exit 2; }
	@$(BIN)/hiringcenter push "$(CSV)" $(ARGS)

check: $(STAMP) ## Check key, destination, budget, outbox and clock
	@$(BIN)/hiringcenter check $(ARGS)

# the suite starts Python hundreds of times: without cached bytecode, each would compile everything
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -q

test: $(STAMP) ## Run the whole suite
	@$(PYTEST) -n auto --dist worksteal $(ARGS)

test-fast: $(STAMP) ## Run unit tests, one pull, some pushes: about a minute
	@$(PYTEST) -n logical --dist worksteal -m "not slow" $(FAST) $(ARGS)

test-airflow: $(AIRFLOW) $(STAMP) ## Test the DAG in a real Airflow, in .venv-airflow
	@AIRFLOW_BIN=$(abspath $(AIRFLOW)) $(PYTEST) -n logical tests/airflow $(ARGS)

# needs nothing of .venv: `make --jobs=2` installs both at once
$(AIRFLOW): config/constraints-airflow.txt
	@test -x $(AIRFLOW_VENV)/bin/python || $(PYTHON) -m venv $(AIRFLOW_VENV)
	@$(AIRFLOW_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c config/constraints-airflow.txt apache-airflow-core apache-airflow-providers-standard
	@touch $@

test-dagster: $(DAGSTER) $(STAMP) ## Test assets in a real Dagster, manifests by schema
	@DAGSTER_BIN=$(abspath $(DAGSTER)) $(PYTEST) -n logical tests/dagster $(ARGS)

$(DAGSTER): config/constraints-dagster.txt
	@test -x $(DAGSTER_VENV)/bin/python || $(PYTHON) -m venv $(DAGSTER_VENV)
	@$(DAGSTER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c config/constraints-dagster.txt dagster dagster-dlt check-jsonschema kubernetes-validate -e .
	@touch $@

test-destinations: $(STAMP) ## Run one script at every destination; write the levels
	@$(BIN)/python -m tests.destinations

test-old-duckdb: $(OLD_DUCKDB)/.installed $(STAMP) ## Read the published copy with DuckDB 1.0
	@OLD_DUCKDB=$(abspath $(OLD_DUCKDB))/bin/python $(PYTEST) tests/marts -k duckdb_1_0 $(ARGS)

$(OLD_DUCKDB)/.installed:  # there are wheels for Python 3.11 and 3.12
	@test -x $(OLD_DUCKDB)/bin/python || $(PYTHON) -m venv $(OLD_DUCKDB)
	@$(OLD_DUCKDB)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: duckdb==1.0.0
	@touch $@

lint: $(STAMP) ## Check rules and format with Ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP) ## Check types with Mypy, strictly
	@$(BIN)/mypy

bench: $(STAMP) ## Measure speed and memory, compare with their targets
	@$(BIN)/python -m tests.bench $(ARGS)

lock: $(STAMP) ## Lock the newest requirements, list their licenses
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv pip-licenses
	@$(BIN)/uv pip compile --quiet pyproject.toml --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
	  --extra dev -o config/requirements-dev.lock
	@$(BIN)/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
	  --extra postgres --extra telemetry -c config/requirements-dev.lock -o config/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r config/requirements-dev.lock
	@$(BIN)/pip-licenses --format=markdown --order=license --ignore-packages hiringcenter-connector pip uv \
	  pip-licenses prettytable wcwidth >config/licenses.md

clean: ## Remove what was built or installed; data, state stay
	@rm -rf $(VENV) $(AIRFLOW_VENV) $(DAGSTER_VENV) .venv-destinations $(OLD_DUCKDB) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
