# Every target works on a fresh clone: what it needs, it installs.
TORCH ?= torch==2.13.0
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export ITERATIVE_DO_NOT_TRACK := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# a file of tests stays on one worker, for its fixtures are dear
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

.PHONY: help setup run test test-integration test-all lint bench ui flickr8k check clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/ready ## make .venv and install everything (TORCH="torch==2.13.0 --index-url ..." for another build)

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make setup PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

check: .venv/ready ## check params, environment, disk, inputs and models
	@llm2clip check

run: .venv/ready ## run the pipeline to its end (PRESET=name for another preset)
ifdef PRESET
	@llm2clip use $(PRESET)
endif
	@llm2clip check
	@dvc repro
	@llm2clip publish
	@llm2clip results

lint: .venv/ready ## ruff, mypy, import-linter, docs
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict -q

test: lint ## the checks of a working day: units, stages on tiny data, one whole run
	$(PYTEST) -m "not slow and not integration"

test-integration: .venv/ready ## servers, several processes, S3 end to end, kills
	$(PYTEST) -m "integration and not slow"

test-all: lint ## all checks, those that take an hour too
	$(PYTEST)

bench: .venv/ready ## download's speed and memory beside img2dataset's, which gets an environment of its own
	@python -m bench.download
	@python -m bench.download --memory

ui: .venv/ready ## Prefect's server, deployment and worker on this machine (PORT=4200)
	@python -m flows.ui --port $(or $(PORT),4200)

flickr8k: .venv/ready ## run the preset flickr8k on real photographs (DATA=folder)
	@test -d "$(DATA)/flickr8k/images" || { echo "no photographs in $(DATA)/flickr8k: make flickr8k DATA=folder"; exit 2; }
	@llm2clip use flickr8k
	@python infra/serve_photographs.py --captions $(DATA)/flickr8k/captions.parquet --images $(DATA)/flickr8k/images \
	    --texts $(DATA)/text/multi30k_task2_text_only.parquet --out inputs/flickr8k -- $(MAKE) run
flickr8k: DATA ?= ../shared/data

clean: ## remove what runs made, but neither .venv nor DVC's cache
	rm -rf artifacts metrics costs .work runs
