# Targets are listed by `make help`. Everything goes into .venv; nothing else of the system is touched but ngspice.
PYTHON   ?= python3
PIP_ARGS ?=
ARGS     ?=
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
APT      := $(shell [ "$$(id -u)" = 0 ] && echo apt-get || echo sudo apt-get)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: ngspice compiler $(VENV)/.installed ## ngspice, C++ compiler, virtual environment, packages (PYTHON=python3.12, PIP_ARGS="...")

# The program is needed; the library serves the engine ngspice-shared and the tests, and is installed where that is possible.
.PHONY: ngspice
ngspice:
	@n="$${MEMPROP_NGSPICE:-ngspice}"; command -v "$$n" >/dev/null && $(PYTHON) -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("ngspice"))' || { \
	  command -v apt-get >/dev/null && echo "installing ngspice ..." && $(APT) update -qq && $(APT) install -y -qq ngspice libngspice0 >/dev/null; \
	  command -v "$$n" >/dev/null || { echo "ngspice is missing. Debian/Ubuntu: sudo apt-get install ngspice libngspice0; macOS: brew install ngspice libngspice"; exit 1; }; }

# The kernels of the twins are built on first use; without a compiler the twins run many times slower, and say so.
.PHONY: compiler
compiler:
	@command -v "$${CXX:-c++}" >/dev/null || { \
	  command -v apt-get >/dev/null && echo "installing g++ ..." && $(APT) update -qq && $(APT) install -y -qq g++ >/dev/null; \
	  command -v "$${CXX:-c++}" >/dev/null || echo "no C++ compiler: the twins will run many times slower. Debian/Ubuntu: sudo apt-get install g++; macOS: xcode-select --install"; }

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memprop needs Python 3.11 or newer, for example: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  p="python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"; rm -rf $(VENV); \
	  { command -v apt-get >/dev/null && $(APT) update -qq && $(APT) install -y -qq "$$p" >/dev/null && $(PYTHON) -m venv $(VENV); } \
	  || { echo "no virtual environment. Debian/Ubuntu: sudo apt-get install $$p; then run make again"; exit 1; }; }

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing the packages ..."
	@$(PIP) torch
	@$(PIP) -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	@echo "installing the packages of the tests ..."
	@$(PIP) -e '.[dev]'
	@touch $@

.PHONY: train
train: setup ## MNIST, the whole loop: train, write back, simulate in ngspice, export netlists/mnist_mif (ARGS="--epochs 5" ...)
	$(BIN)/memprop train mnist $(ARGS)

.PHONY: large
large: setup ## MNIST with 256 hidden neurons and 25 epochs, the whole loop, export netlists/mnist_mif_256
	$(BIN)/memprop train mnist-large $(ARGS)

.PHONY: digits
digits: setup ## 8x8 digits, the whole loop in two minutes, export netlists/digits_mif
	$(BIN)/memprop train digits $(ARGS)

.PHONY: fashion
fashion: setup ## Fashion-MNIST, the whole loop, export netlists/fashion_mif
	$(BIN)/memprop train fashion $(ARGS)

.PHONY: rules
rules: setup ## all learning rules on 8x8 digits, three seeds: table and learning curves in runs/compare_rules
	$(BIN)/memprop compare-rules $(ARGS)

.PHONY: replay
replay: setup ## replay the committed bundle netlists/digits_mif in ngspice, pass or fail per check
	$(BIN)/memprop replay netlists/digits_mif

.PHONY: verify
verify: setup ## print the proofs: cell check tables, gradient against finite differences in ngspice
	$(BIN)/memprop verify netlists/digits_mif

LEARNED = runs/axon_hillock
.PHONY: learned
learned: setup ## waveforms of the CMOS neuron and its learned twin; long on a CPU (ARGS="--device cuda" where torch has it)
	$(BIN)/memprop characterise axon_hillock --runs 200 --duration 1e-4 --corners 400 --current=-1e-5:1.2e-5 --out $(LEARNED)/both
	$(BIN)/memprop characterise axon_hillock --runs 280 --duration 1e-4 --corners 400 --current=1e-7:1.2e-5 --seed 1 --out $(LEARNED)/spiking
	$(BIN)/memprop fit-cell axon_hillock --learned --waveforms $(LEARNED)/both/waveforms.nc --more $(LEARNED)/spiking/waveforms.nc $(ARGS)

.PHONY: models
models: setup ## write models/*.lib, the subcircuits for ngspice, from models/*.va
	$(BIN)/memprop model models/*.va

# make sweep-vteam, sweep-yakopcic, ...; any device in models/
sweep-%: setup
	$(BIN)/memprop sweep $* $(ARGS)

.PHONY: sweep-mss_memristor
sweep-mss_memristor: ## loops, pulses, retention of a device (sweep-NAME for any in models/), in runs/sweep/

.PHONY: bench
bench: setup ## speeds as ratios of one run, in minutes: kernels, training, SPICE, crossbars; figures in runs/bench/
	$(BIN)/memprop bench $(ARGS)

.PHONY: bench-full
bench-full: setup ## the same with all sizes and a real epoch, an hour or two; goes on where it was interrupted
	$(BIN)/memprop bench --full $(ARGS)

.PHONY: bench-readme
bench-readme: setup ## the table of speeds in README, and docs/bench*, from runs/bench/
	$(BIN)/memprop bench-readme $(ARGS)

.PHONY: doctor
doctor: $(VENV)/.installed ## what is installed, what is missing and how to get it
	$(BIN)/memprop doctor

.PHONY: test
test: setup $(VENV)/.tests ## lint, types, and all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2

.PHONY: test-slow
test-slow: setup $(VENV)/.tests ## the proofs that take minutes
	$(BIN)/python -m pytest -m slow

.PHONY: golden
golden: setup $(VENV)/.tests ## write the golden decks anew; read the diff before you commit it
	MEMPROP_GOLDEN=write $(BIN)/python -m pytest -q tests/test_golden.py

.PHONY: format
format: setup $(VENV)/.tests ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove the environment and caches; runs and netlists stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
