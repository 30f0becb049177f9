# `make demo` shows a trained agent at work; `make test` checks everything. Both install first.

# Another interpreter: make PYTHON=python3.12. Another build of torch, such as a CPU-only one that
# is far smaller on Linux: make TORCH_ARGS="--index-url <address that pytorch.org names>".
PYTHON ?= python3
TORCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

install: $(INSTALLED) ## Create .venv with everything in it.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed; say which with: make PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## Evaluate the shipped Pong agent at nine confidence thresholds.
	$(BIN)/ztw-rl eval --agent pong --thresholds 0.1:0.9 --n-episodes 5

test: install ## Check style, types and import rules, and run the tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow"

test-slow: install ## Run the tests that take minutes.
	$(BIN)/pytest -m slow

clean: ## Remove .venv and caches; runs/ stays.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
