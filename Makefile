# Two commands do all their own set-up on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
ARGS ?=

.PHONY: serve test gpu-test setup simulate bench lint types proto clean

# PyTorch is an extra, and a server ends when a model does not load: looked at when a recipe runs.
HAS_TORCH = $(shell $(RUN)/python -c 'from importlib.util import find_spec; print("yes" if find_spec("torch") else "")')

serve: $(VENV)/.serve
	$(if $(HAS_TORCH),,@echo "Without PyTorch sample_repository_torch is left out; to get it: $(RUN)/pip install -e '.[torch]'")
	$(RUN)/troupe serve --model-repository sample_repository $(if $(HAS_TORCH),--model-repository sample_repository_torch )--admin-port=8003 $(ARGS)

test: $(VENV)/.test
	$(RUN)/pytest $(ARGS)

# What needs a GPU; elsewhere every test says why it is skipped.
gpu-test: $(VENV)/.gpu
	$(RUN)/pytest -m gpu tests/gpu $(ARGS)

setup: $(VENV)/.test

simulate: $(VENV)/.test
	$(RUN)/python -m simulation --sweep $(or $(SEEDS),10000)

# Beside the real Triton and other servers; nothing else should run meanwhile. ARGS=--quick
bench: $(VENV)/.test
	$(RUN)/python bench/all.py $(ARGS)

lint: $(VENV)/.test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/.test
	$(RUN)/mypy

proto: $(VENV)/.codegen
	$(RUN)/python tools/generate_protos.py

clean:
	rm -rf $(VENV) build *.egg-info

$(RUN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml | $(RUN)/pip
	$(RUN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(RUN)/pip
	$(RUN)/pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.serve

$(VENV)/.gpu: pyproject.toml | $(RUN)/pip
	$(RUN)/pip install --quiet --editable '.[test,gpu]'
	$(RUN)/pip install --quiet --force-reinstall --no-deps onnxruntime-gpu # over onnxruntime's files
	touch $@ $(VENV)/.test $(VENV)/.serve

$(VENV)/.codegen: pyproject.toml | $(RUN)/pip
	$(RUN)/pip install --quiet --editable '.[test,codegen]'
	touch $@
