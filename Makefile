# Targets are listed by `make help`. Everything goes into .venv; nothing else of the system is touched but ngspice.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
APT    := $(shell [ "$$(id -u)" = 0 ] && echo apt-get || echo sudo apt-get)
ARGS   ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/.installed ngspice ## virtual environment, packages, ngspice

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memprop needs Python 3.11 or newer: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { command -v apt-get >/dev/null && $(APT) update -qq && $(APT) install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
	  || { echo "no virtual environment: install python3-venv (Debian/Ubuntu: sudo apt-get install python3-venv), then run make again"; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: ngspice
ngspice:
	@command -v ngspice >/dev/null && $(PYTHON) -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("ngspice") is None)' || { \
	  command -v apt-get >/dev/null && $(APT) update -qq && $(APT) install -y -qq ngspice libngspice0 >/dev/null && command -v ngspice >/dev/null; } \
	  || { echo "ngspice is missing: sudo apt-get install ngspice libngspice0 (macOS: brew install ngspice libngspice)"; exit 1; }

.PHONY: train
train: setup ## MNIST, the whole loop: train, write back, simulate in ngspice, export netlists/mnist_mif (ARGS="--epochs 5" ...)
	$(BIN)/memprop train mnist $(ARGS)

.PHONY: digits
digits: setup ## 8x8 digits, the whole loop in two minutes, export netlists/digits_mif
	$(BIN)/memprop train digits $(ARGS)

.PHONY: fashion
fashion: setup ## Fashion-MNIST, the whole loop, export netlists/fashion_mif
	$(BIN)/memprop train fashion $(ARGS)

.PHONY: replay
replay: setup ## replay the committed bundle netlists/digits_mif in ngspice, pass or fail per check
	$(BIN)/memprop replay netlists/digits_mif

.PHONY: verify
verify: setup ## print the proofs: cell check tables, gradient against finite differences in ngspice
	$(BIN)/memprop verify netlists/digits_mif

.PHONY: doctor
doctor: setup ## what is installed, what is missing and how to get it
	$(BIN)/memprop doctor

.PHONY: test
test: setup ## lint, types, and all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2

.PHONY: test-slow
test-slow: setup ## the proofs that take minutes
	$(BIN)/python -m pytest -m slow

.PHONY: golden
golden: setup ## write the golden decks anew; read the diff before you commit it
	MEMPROP_GOLDEN=write $(BIN)/python -m pytest -q tests/test_golden.py

.PHONY: format
format: setup ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove the environment and caches; runs and netlists stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
