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

test: install
	ruff check .
	ruff format --check .
	lint-imports
	pytest
