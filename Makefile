# PHANES: `make demo` (try it), `make test` (lint, types, tests), `make test-integrations` (real servers).
# The environment .venv is reused while the requirements are unchanged.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
DEMO ?= demo

.PHONY: help demo test lint format test-integrations golden clean
.DELETE_ON_ERROR:

help:
	@echo "make demo               analyse a demo head, healthy and with a painted lesion (CPU, two minutes)"
	@echo "make test               lint, type check and test"
	@echo "make test-integrations  tests against real servers and SDKs"
	@echo "make lint | format      ruff and mypy | let ruff rewrite"
	@echo "make golden             recompute tests/golden.json after a wanted change of the results"
	@echo "make clean              remove what these made"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/python -m scripts demo_input --out $(DEMO)
	$(BIN)/python -m monai.bundle run inference --bundle_root bundle --config_file bundle/configs/inference.json \
		--dataset_dir $(DEMO)/input --output_dir $(DEMO)/results
	$(BIN)/python -m scripts demo_summary --out $(DEMO)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread a worker: two workers with two threads each would fight over two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 10 \
		--cov --cov-report term:skip-covered --cov-fail-under 85

test-integrations: $(VENV)/.dev
	@if ls tests/integrations/test_*.py >/dev/null 2>&1; then \
		$(BIN)/python -m pytest -ra tests/integrations; \
	else echo "no integration tests yet"; fi

golden: $(VENV)/.dev
	$(BIN)/python -m tests.test_golden

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .mypy_cache .coverage* coverage.xml
