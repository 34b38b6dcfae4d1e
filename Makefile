# make train   fresh machine -> environment -> data -> base model -> vanilla and DeRTa -> evaluation -> report
# make real    the same on a real chat model: SmolLM2-135M from its wheel, vanilla, harmful prefix and DeRTa, in minutes
# make test    fresh machine -> environment -> every test that needs no GPU and no network
# make check   lint and types
# Needs python3 (3.10 or newer) with venv, a C++ compiler (DeepSpeed's CPU collectives) and the package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
ARGS ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train real test check clean
train: $(INSTALLED)
	$(BIN)/python launch/miniature.py $(ARGS)

real: $(INSTALLED)
	$(BIN)/python launch/real.py $(ARGS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not network and not slow" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and in exactly the pinned version: asked for as a dependency, pip would fetch the newest GPU build.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "== environment in $(VENV) (the first time: a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs
