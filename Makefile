# `make help` lists the targets. Nothing needs to be installed first but Python 3.11 or newer.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
COMMA := ,
# A GPU driver that answers means the CUDA build of FBGEMM; without one, the CPU build under its name.
FBGEMM := $(shell nvidia-smi -L >/dev/null 2>&1 && echo fbgemm-gpu==1.8.0 || echo ./packaging/fbgemm-gpu)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## create .venv with everything that training and testing need

# Says what it does and how long that took; what pip prints is shown where it fails.
step = @printf '  %-62s' '$(1)'; began=$$(date +%s); if said=$$($(2) 2>&1); then echo "$$(($$(date +%s) - began)) s"; \
	else status=$$?; printf 'failed\n%s\n' "$$said"; exit $$status; fi

$(STAMP): pyproject.toml packaging/fbgemm-gpu/pyproject.toml
	@echo 'setup of .venv, some minutes where packages are downloaded'
	$(call step,an environment of $(PYTHON),$(PYTHON) -m venv .venv)
	$(call step,torch 2.13.0,$(BIN)/pip install torch==2.13.0)
	$(call step,$(FBGEMM),$(BIN)/pip install $(FBGEMM))
	$(call step,this program and what it requires,$(BIN)/pip install --editable '.[dev$(COMMA)docs$(COMMA)tensorboard$(COMMA)rivals]')
	$(call step,whether all of it fits together,$(BIN)/pip check)
	@touch $@

.PHONY: train
train: $(STAMP) ## train the hybrid and the Adagrad baseline on synthetic data, end with the table
	$(BIN)/python train.py --config configs/smoke.toml

.PHONY: check
check: $(STAMP) ## format, lint, types, import layers, spelling, prose
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/proselint check --config docs/proselint.json README.md CONTRIBUTING.md SECURITY.md EXPERIMENTS.md CHANGELOG.md data/README.md docs

# Two tests at a time: each process with one thread of its own, so that they do not get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: check ## everything in `check`, then all tests but the longest campaigns
	$(PYTEST) -m "not campaign"

.PHONY: test-fast
test-fast: $(STAMP) ## lint, import layers, and the tests that a change needs most, in about a minute
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow and not dist" tests/golden tests/curvature tests/optim tests/kernels tests/metrics tests/statistics

.PHONY: docs
docs: $(STAMP) ## build the documentation into site/, pages that need no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: pictures
pictures: $(STAMP) ## draw the pictures of docs/img that show the program
	$(BIN)/python docs/pictures.py

.PHONY: docs-serve
docs-serve: docs ## build the documentation and show it, with search, on http://127.0.0.1:8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory site

.PHONY: bench
bench: $(STAMP) ## run the benchmarks of benchmarks/, a file of results/ each, and draw docs/img; leave the machine idle
	mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks.curvature --json > benchmarks/results/curvature.json
	$(BIN)/python -m benchmarks.step --json > benchmarks/results/step.json
	$(BIN)/python -m benchmarks.scaling --json > benchmarks/results/scaling.json
	$(BIN)/python -m benchmarks.tables --json > benchmarks/results/tables.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bag_length --json > benchmarks/results/bag_length.json
	$(BIN)/python -m benchmarks.checkpoint --json > benchmarks/results/checkpoint.json
	$(BIN)/python -m benchmarks.ranks --json > benchmarks/results/ranks.json
	$(BIN)/python -m benchmarks.prepare --json > benchmarks/results/prepare.json
	$(BIN)/python -m benchmarks.read_columns --json > benchmarks/results/read_columns.json
	$(BIN)/python -m benchmarks.prepare_scaling --json > benchmarks/results/prepare_scaling.json
	$(BIN)/python -m benchmarks.large_batches --json > benchmarks/results/large_batches.json
	$(BIN)/python -m benchmarks.plots
	$(BIN)/python -m benchmarks.evaluate --json > benchmarks/results/evaluate.json
	$(BIN)/python -m benchmarks.serving --json > benchmarks/results/serving.json
	$(BIN)/python -m benchmarks.null_study --json > benchmarks/results/null_study.json

.PHONY: reliability
reliability: $(STAMP) ## kills, damage, bad and hostile input, as often as docs/reliability.md says; an hour, leave the machine idle
	$(PYTEST) -m campaign
	$(BIN)/python -m tests.reliability
	$(BIN)/python -m tests.reliability.plot

.PHONY: licenses
licenses: $(STAMP) ## write docs/licenses.md, the licenses of what the program needs, from what is installed
	$(BIN)/python docs/licenses.py

.PHONY: audit
audit: $(STAMP) ## compare the installed packages with published advisories; asks a service on the network
	$(BIN)/pip install --quiet --editable '.[audit]'
	$(BIN)/pip-audit --skip-editable
