# Two commands for a newcomer: `make demo` and `make test`. Each sets up everything it needs in .venv.

PYTHON ?= python3
VENV ?= .venv
PINS ?= requirements/ci.txt
BIN := $(VENV)/bin

.PHONY: demo test lint check bench docs clean

demo: $(VENV)/.installed
	@$(BIN)/python docs/demo.py

test: lint
	$(BIN)/pytest -n 2 -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.:kernels:cli $(BIN)/lint-imports --no-cache

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/run.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first: with 2.13.0 there, nothing else pulls a newer build and its CUDA packages.
$(VENV)/.installed: pyproject.toml $(PINS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(PINS),-r $(PINS),--group test --group lint)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@
