.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.warm
KERNELS := src/lifeline_stream/core/kernels

.PHONY: help run test check lint format types wheel bench grafana services clean

help:  ## show this list
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(STAMP)  ## the whole system on a simulated city: lifeline demo
	@$(BIN)/lifeline demo $(ARGS)

test: $(STAMP) services  ## every test; what is missing is named and skipped (STRICT=1: it is a failure)
	@LIFELINE_TEST_STRICT=$(STRICT) $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

check: lint types test wheel  ## exactly what CI runs

lint: $(STAMP)  ## ruff and the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(STAMP)  ## mypy, strict
	@$(BIN)/mypy

wheel: $(STAMP)  ## sdist → wheel → an empty environment outside the checkout → lifeline check
	@$(BIN)/python tests/wheel.py

bench: $(STAMP)  ## readings/s of every step beside its plain-Python twin
	@$(BIN)/python benchmarks/bench.py

format: $(STAMP)  ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only .

grafana: $(STAMP)  ## write the dashboards again
	@$(BIN)/python deploy/grafana/build.py

services:
	@deploy/install-services

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

# a compiled kernel does not notice that a kernel of another file, which it calls, has changed
$(STAMP): $(VENV)/.installed $(wildcard $(KERNELS)/*.py)
	@rm -f $(KERNELS)/__pycache__/*.nb[ic]
	@$(BIN)/lifeline warm
	@touch $@

clean:  ## remove the environment, caches and the demo's data
	rm -rf $(VENV) .data dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
