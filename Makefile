# Linux and macOS, GNU make 3.81 or newer. Every target sets up what it needs; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup reproduce figures book lab bench test lint ship clean

PYTHON ?= python3
PROFILE ?= mini
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.fmuc-setup

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
ifeq ($(shell uname -s),Linux)
# glibc keeps freed memory instead of returning it: training in float32 spends a third less time in page faults.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 99999999999
export MALLOC_TOP_PAD_ := 268435456
endif

help: ## list the targets
	@echo "usage: make TARGET [PROFILE=smoke|mini|paper] [PYTHON=python3.11]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create .venv with the locked packages (only what is missing)

$(STAMP): requirements.lock requirements-synth.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is missing or older than Python 3.11: name a newer one, as in 'make setup PYTHON=python3.11'" >&2; \
	  exit 1; }
	@$(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "make: $(PYTHON) cannot create $(VENV): install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; \
	  exit 1; }
	@echo "installing the locked packages into $(VENV): 1 to 5 minutes and, with the GPU libraries on Linux, 6 GB"
	$(PY) -m pip install --quiet -r requirements.lock
	$(PY) -m pip install --quiet --no-deps -r requirements-synth.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@echo "compiling librosa's functions: half a minute, once; processes that did so side by side could crash"
	$(PY) -c 'import librosa.core.pitch'
	@touch $@

reproduce: setup ## data, features, training, every figure and table of PROFILE (mini): figures/PROFILE-own
	$(PY) -m fmuc reproduce --profile $(PROFILE)

figures: setup ## every figure and table of PROFILE from the shipped records, no training: figures/PROFILE-shipped
	$(PY) -m fmuc figures --profile $(PROFILE)

book: setup ## notebooks, figures, tables, texts and API as a web site, without a network: build/book
	$(PY) -m sphinx -W --keep-going -q -j 2 -c docs -d build/doctrees . build/book
	@echo "open build/book/index.html in a browser"

lab: setup ## open the notebooks in JupyterLab
	$(PY) -m jupyter lab notebooks/00_start_here.ipynb

bench: setup ## our code beside a textbook's, as ratios
	$(PY) -m benchmarks

# A crash ends the run as a failure: where pytest-xdist replaces a worker, the others may wait for work for ever.
test: setup ## run every test
	$(PY) -m pytest -n auto --dist loadfile --max-worker-restart 0

lint: setup ## check code and notebooks with ruff
	$(PY) -m ruff check

ship: setup ## for maintainers: commit-ready records, figures, notebooks and tables from your runs of PROFILE
	$(PY) -m tools.ship --profile $(PROFILE)

clean: ## remove caches, build leftovers and what was executed; keep .venv, data and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis docs/api figures/*-own figures/*-shipped
	find benchmarks docs fmuc tests tools notebooks -name __pycache__ -prune -exec rm -rf {} +
	find fmuc tests notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +
