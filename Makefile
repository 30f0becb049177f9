# `make demo` shows a trained agent at work; `make test` checks everything. Both install first.

# Another interpreter: make PYTHON=python3.12. Another build of torch, such as a CPU-only one that
# is far smaller on Linux: make TORCH_ARGS="--index-url <address that pytorch.org names>".
PYTHON ?= python3
TORCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-integration table3 backbones networks clean

help: ## Show this list.
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/make \1\t\2/' | expand -t 24

install: $(INSTALLED) ## Create .venv with everything in it.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed; say which with: make PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt $(TORCH_ARGS) torch torchvision
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## Evaluate the shipped Pong agent at nine confidence thresholds.
	$(BIN)/ztw-rl eval --agent pong --thresholds 0.1:0.9 --n-episodes 5 --backend onnx

test: install ## Check style, types and import rules, and run the tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow and not integration" -n auto --maxprocesses 8

test-slow: install ## Run the tests that take minutes.
	$(BIN)/pytest -m slow

test-integration: install ## Install MiniGrid, Box2D and ViZDoom, and take each through all commands.
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,integration]'
	$(BIN)/pytest -m integration

# Results of the supervised pipeline: DATA is a folder of CIFAR-10 in parquet or in class folders,
# BACKBONE a ResNet-56's weights. EPOCHS scales the schedule; SEEDS gives mean and deviation;
# PRECISION=bfloat16 is faster where the processor multiplies it.
DATA ?= data
BACKBONE ?= resnet56-cifar10.safetensors
EPOCHS ?= 50
PRECISION ?= float32
SEEDS ?= 0
# What was fitted with other settings is not taken for a result of these.
RUNS = runs/table3/$(EPOCHS)-$(PRECISION)-$(shell printf '%s\n' "$(DATA)" "$(BACKBONE)" | cksum | cut -d' ' -f1)
FIT = $(BIN)/ztw-rl supervised train-ics --data cifar10 --data-path "$(DATA)" --arch resnet56 \
	--backbone "$(BACKBONE)" --n-epochs $(EPOCHS) --precision $(PRECISION)

table3: install ## Fit and evaluate all methods on CIFAR-10's ResNet-56 (hours without a GPU).
	@set -e; for seed in $(SEEDS); do \
		into="$(RUNS)/$$seed"; ics="$$into/ics/resnet56-cifar10"; \
		fit() { method=$$1; shift; folder="$$ics-$$(echo $$method | tr _ -)-001"; \
			if [ -f "$$folder/classifier/classifier.json" ]; then return; fi; \
			if ls -d "$$folder"/checkpoints/step_* >/dev/null 2>&1; then \
				$(BIN)/ztw-rl supervised train-ics --resume "$$folder" --runs-dir "$$into"; \
			else rm -rf "$$folder"; \
				$(FIT) --seed $$seed --runs-dir "$$into" --method $$method "$$@"; fi; }; \
		fit sdn; fit cascade; fit no_stop_gradient; \
		fit ensemble --ics "$$ics-sdn-001"; \
		fit ztw --ics "$$ics-cascade-001"; \
		fit additive --ics "$$ics-cascade-001"; \
	done
	$(BIN)/ztw-rl supervised eval --models $(foreach seed,$(SEEDS),$(RUNS)/$(seed)/ics/*)

backbones: install ## Train the other networks of Table 3 (needs a GPU); DATA holds cifar10/, cifar100/.
	@set -e; for data in cifar100 cifar10; do \
		for arch in resnet56 mobilenet wideresnet vgg16; do \
			$(BIN)/ztw-rl supervised train-backbone --arch $$arch --data $$data \
				--data-path "$(DATA)/$$data"; \
		done; \
	done

# What is learnt in one epoch of 512 images means nothing: this shows that all parts fit together.
SUBSET = --n-epochs 1 --n-train 512 --n-test 256
SMOKE = runs/networks

networks: install ## Every network end to end on a few images (minutes); DATA as for backbones.
	@rm -rf $(SMOKE); set -e; \
	end_to_end() { \
		$(BIN)/ztw-rl supervised train-backbone --arch $$1 --data $$2 --data-path "$(DATA)/$$3" \
			$(SUBSET) --runs-dir $(SMOKE); \
		for method in sdn ztw; do \
			$(BIN)/ztw-rl supervised train-ics --backbone $(SMOKE)/backbone/$$1-$$2-001 \
				--method $$method --n-epochs 1 --runs-dir $(SMOKE); \
		done; \
		$(BIN)/ztw-rl supervised eval --models $(SMOKE)/ics/$$1-$$2-* --runs-dir $(SMOKE); }; \
	end_to_end resnet56 cifar100 cifar100; end_to_end resnet56 cifar2 cifar10; \
	for arch in mobilenet wideresnet vgg16 resnet50; do end_to_end $$arch cifar10 cifar10; done

clean: ## Remove .venv and caches; runs/ stays.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
