# make demo | test | verify | cluster | cluster-down | images | bench
# Each target installs what it needs; builds and downloads are kept in $GRAFT_CACHE (default ~/.cache/graft).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
DEVCLUSTER := PYTHONPATH=devcluster $(PYTHON) -m graft_devcluster
# Debian's nginx and Chromium, which the tests of the door and of reports run.
DOOR := PYTHONPATH=devcluster $(PYTHON) -m graft_devcluster.packages door
BROWSER := PYTHONPATH=devcluster $(PYTHON) -m graft_devcluster.packages browser
PYTEST := $(PYTHON) -m pytest
API_TIER := kube-apiserver etcd kube-controller-manager kubectl
# Compiled once, and not beside the sources: without a cache every process compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(or $(GRAFT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/graft)/pycache

.PHONY: help demo test unit api trainer browser e2e verify generate cluster cluster-down images bench bench-operator bench-trainer bench-gateway bench-switch bench-mirroring bench-rollback bench-statistics

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

.venv/.ready: pyproject.toml uv.lock devcluster/uv.txt devcluster/bootstrap
	@devcluster/bootstrap

demo: .venv/.ready ## Fine-tune a small model on a real cluster on this machine and watch it get better
	@$(PYTHON) examples/dsl/demo.py

test: .venv/.ready unit api trainer browser e2e ## Run every test

unit: .venv/.ready ## No cluster, no network
	@$(DOOR)
	$(DEVCLUSTER) build helm
	$(PYTEST) tests/unit --timeout 30 -q

api: .venv/.ready ## Against a real etcd and kube-apiserver
	@$(DEVCLUSTER) build $(API_TIER) helm
	$(PYTEST) tests/api --timeout 300 -q --durations 12

trainer: .venv/.ready ## Real training of a tiny model, without a cluster
	@$(DEVCLUSTER) build versitygw
	$(PYTEST) tests/trainer --timeout 300 -q

browser: .venv/.ready ## Reports in a headless Chromium
	@$(BROWSER)
	$(PYTEST) tests/browser --timeout 60 -q

e2e: .venv/.ready cluster images ## Real node, images, S3 and chart
	@$(PYTEST) tests/e2e --timeout 900 -v --durations 12

generate: .venv/.ready ## CRDs, chart, RBAC table
	@$(PYTHON) -m graft_api.crd crds
	$(PYTHON) -m graft_api.reference docs/reference.md
	$(PYTHON) charts/graft/generate.py

verify: .venv/.ready generate ## Generated files, format, lint, types, imports, unit tests
	@$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy api runtime evaluation operator trainer serving cli devcluster/graft_devcluster
	.venv/bin/lint-imports
	$(DOOR)
	$(DEVCLUSTER) build helm
	$(PYTEST) tests/unit --timeout 30 -q
	git diff --exit-code
	test -z "$$(git status --porcelain -- api crds charts docs)"

cluster: .venv/.ready ## Start the single-node Kubernetes
	@$(DEVCLUSTER) up

cluster-down: .venv/.ready ## Stop it and leave the host clean
	@$(DEVCLUSTER) down

images: .venv/.ready ## Build the images and load them into the cluster
	@$(DEVCLUSTER) images --load

bench: bench-operator bench-trainer bench-gateway bench-switch bench-mirroring bench-rollback bench-statistics ## Every benchmark: a table, and JSON in bench/results/

bench-operator: .venv/.ready ## Idle cost and reaction time of the operator
	@$(DEVCLUSTER) build $(API_TIER) helm kuberay-operator
	$(PYTHON) bench/bench_operator.py

bench-trainer: .venv/.ready ## Seconds per stage beside plain TRL
	@$(PYTHON) bench/trainer.py

bench-gateway: .venv/.ready ## The gateway beside nginx, vllm-router and LiteLLM
	@$(PYTHON) bench/gateway/run.py

bench-switch: .venv/.ready cluster images ## A switch under load, and from apply to serving, on two real vLLM replicas
	@$(PYTHON) bench/switch.py

bench-mirroring: .venv/.ready ## What the tee adds to a request with the collector fast, slow and dead; what a collector can do
	@$(DEVCLUSTER) build versitygw
	$(PYTHON) bench/mirroring/run.py
	$(PYTHON) bench/mirroring/collector.py
	GRAFT_KILLS=10 GRAFT_SECONDS_BETWEEN_KILLS=30 $(PYTEST) tests/trainer/test_collector_killed.py --timeout 900 -q

bench-rollback: .venv/.ready ## How fast a bad version is out: by routes, and by each gateway's own hard limits
	@$(PYTHON) bench/rollback/run.py

bench-statistics: .venv/.ready ## Coverage, false passes, power and speed of the paired statistics beside scipy
	@$(PYTHON) bench/statistics/run.py
