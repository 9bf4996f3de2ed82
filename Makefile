# `make demo` and `make test` set everything up in their own environment, VENV.
# Stamp files remember what is installed, so that a second call starts at once.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
WORKERS ?= auto
BENCH ?= --write docs/benchmarks.md
ACCURACY ?= --write docs/accuracy.md
CALIBRATION ?= --write docs/calibration.md
STATED ?= --write docs/stated-values.md
SEEDS ?= alignlab-reproduced

BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all lint docs bench accuracy calibration stated seeds seeds-full clean help
.DEFAULT_GOAL := help

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo "TORCH='$(TORCH)' PYTHON='$(PYTHON)' VENV='$(VENV)' can be set after the target."

demo: $(VENV)/.package  ## analyse the packaged checkpoints; ends with the path of the report
	$(BIN)/alignlab demo

test: $(VENV)/.peers  ## run the tests and the doctests
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 8 -q

test-all: $(VENV)/.peers  ## the tests that take minutes too
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 8 -q -m "slow or not slow"

lint: $(VENV)/.dev  ## style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs  ## build the documentation in docs/_build
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

bench: $(VENV)/.peers  ## every benchmark in five processes, 20 minutes; BENCH=--quick: one, no page
	$(BIN)/python -m tests.benchmarks $(BENCH)

accuracy: $(VENV)/.dev  ## train networks under every rule, an hour; MNIST needs ALIGNLAB_DATA
	$(BIN)/python -m tests.accuracy $(ACCURACY)

stated: $(VENV)/.dev  ## measure the values that our derivations state, some minutes
	$(BIN)/python -m tests.stated_values $(STATED)

seeds: $(VENV)/.dev  ## measure every claim of the five works anew, 15 to 40 minutes on two cores; writes docs/seeds.md
	$(BIN)/alignlab reproduce --all --fast -o $(SEEDS) || [ $$? -eq 1 ]
	$(BIN)/python -m tests.seeds $(SEEDS) --write

seeds-full: $(VENV)/.dev  ## the same in the sizes of the works, days on a few cores; needs ALIGNLAB_DATA
	$(BIN)/alignlab reproduce --all --full -o $(SEEDS) || [ $$? -eq 1 ]
	$(BIN)/python -m tests.seeds $(SEEDS) --write

calibration: $(VENV)/.dev  ## hold every chance level against fresh draws, a quarter of an hour
	$(BIN)/python -m tests.calibration $(CALIBRATION)

clean:  ## remove the environment and whatever was built
	rm -rf $(VENV) build dist docs/_build alignlab-demo alignlab-reproduced
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("alignlab needs Python 3.11 or later, this is " + sys.version.split()[0] + "; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	touch $@

$(VENV)/.package: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.package
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

# The package that our numbers are compared with asks for versions that we do not want.
$(VENV)/.peers: | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps biotorch==0.0.16
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.package
	$(BIN)/python -m pip install --quiet --editable . --group docs
	touch $@
