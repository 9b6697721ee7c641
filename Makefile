# Every target sets up what it needs. Start with `make demo` or `make test`.
# `make PYTHON=python3.12 test` chooses the interpreter of the virtual environment.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV ?= uv
WORKERS ?= 2
# The first interpreter that is new enough; empty where there is none.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# One thread per process: the tests run in several processes, and timings stay comparable.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test check format bench chaos gpu docs sweep lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

# Runs again only when the lock or the package's metadata change. Written last: a set-up that was
# interrupted is taken up again.
$(READY): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "senet: error: no Python 3.11 or later was found; \
	install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "senet: error: $(PYTHON) is not Python 3.11 or later; name one that is: make PYTHON=/path/to/python3 ..." >&2; \
	exit 1; }
	@echo "Setting up $(VENV) from requirements.lock (once)."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## the main job on the embedded digits: plain against SE, a table and an HTML report
	rm -rf runs/demo
	$(BIN)/senet compare --image-size 16 --epochs 4 --reduction 4 --seeds 8 --out runs/demo

test: check ## everything that CI checks
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --timeout=300 -m "not slow and not gpu"

check: $(READY) ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## apply the formatter and the safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## run every benchmark; results go to benchmarks/results
	@shopt -s nullglob; files=(benchmarks/bench_*.py); \
	if [ $${#files[@]} -eq 0 ]; then echo "senet: no benchmarks/bench_*.py yet"; exit 0; fi; \
	for f in "$${files[@]}"; do echo "== $$f"; $(BIN)/python "$$f"; done

# Needs no install: runs with the interpreter that has torch for the device. The versions there are
# not those of the lock, so warnings are shown and are no errors. The tests are those that need torch
# alone; they and the benchmark together take less than nine minutes.
GPU_PYTHON ?= python3
gpu: ## tests and benchmarks that need a CUDA device (with the system's python3, no set-up)
	@$(GPU_PYTHON) -c 'import torch' || { \
	echo "senet: error: $(GPU_PYTHON) lacks torch; name one that has it: make gpu GPU_PYTHON=..." >&2; exit 1; }
	@$(GPU_PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	echo "senet: error: torch sees no CUDA device; make gpu runs on a machine with one" >&2; exit 1; }
	@if $(GPU_PYTHON) -c 'import pytest' 2>/dev/null; then \
	PYTHONPATH=src timeout 140 $(GPU_PYTHON) -m pytest -q -W default -m gpu tests/ops/test_gpu.py || failed=$$?; \
	else echo "senet: $(GPU_PYTHON) has no pytest; the tests are left out, the benchmark runs"; fi; \
	$(GPU_PYTHON) benchmarks/bench_gpu.py --budget 370 && exit $${failed:-0}

chaos: $(READY) ## kill a training run 20 times; its weights must be those of an undisturbed one
	$(THREADS) $(BIN)/python benchmarks/chaos.py

SITE := build/site
docs: $(READY) ## build the documentation site, check its links, run the code of its pages
	rm -rf $(SITE)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . $(SITE)
	cp $(SITE)/README.html $(SITE)/index.html
	$(THREADS) $(BIN)/python -m pytest -q tests/test_docs.py tests/test_pages.py
	@echo "senet: the site is $(SITE)/index.html"

sweep: $(READY) ## the slow tests, every timm and torchvision family: writes docs/coverage.md, models.md
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) -m "slow and not gpu" || [ $$? -eq 5 ] # 5: none is slow
	$(BIN)/python benchmarks/sweep_insertion.py --write docs/coverage.md
	$(BIN)/python benchmarks/write_models_page.py

# torch's accelerator libraries are left out, by pattern: see the header that is written here.
ACCELERATOR := ^(nvidia-|cuda-|triton)
# Keeps the pins that are there; `make lock UPGRADE=--upgrade` moves them to the newest.
lock: ## write requirements.lock from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null || { echo "senet: error: make lock needs uv: python3 -m pip install uv" >&2; exit 1; }
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev $(UPGRADE) \
	--no-header --annotation-style line --no-emit-index-url --no-emit-find-links \
	--output-file requirements.lock pyproject.toml
	@{ echo "# Every package that CI installs, with its version. Written by: make lock"; \
	echo "# (make lock UPGRADE=--upgrade moves the pins to the newest versions)."; \
	echo "# The accelerator libraries (nvidia-*, cuda-*, triton) are not listed: each build of torch,"; \
	echo "# for a CPU or for one version of CUDA, asks pip for exactly those it was built for."; \
	grep -vE '$(ACCELERATOR)' requirements.lock; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## remove the virtual environment, caches and builds (runs/ is kept)
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
