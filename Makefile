# `make help` lists the targets. Everything runs in a virtual environment of its own, made from the lock file.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STATE := .devcluster
# Each of them has a cluster of its own, and takes one file after the other; most of the time they wait.
PARALLEL := --numprocesses 3 --dist loadfile
ARGS ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= tenant-operator:$(VERSION)
BASE_IMAGE ?=
BUILD ?= docker build
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	--python-version 3.11

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.PHONY: install
install: $(VENV)/.ready ## Make the virtual environment

.PHONY: demo
demo: install ## Provision tenants on a real control plane and watch (ARGS=--once: unattended)
	$(BIN)/python -m devcluster.demo $(ARGS)

.PHONY: up
up: install ## Start cluster, database, mail receiver, operator, and the samples' organisation and plans
	$(BIN)/python -m devcluster up --state $(STATE) --operator

.PHONY: down
down: install ## Stop what `make up` started, and remove its data
	$(BIN)/python -m devcluster down --state $(STATE) --delete

.PHONY: test
test: test-fast ## Run all tests
	$(BIN)/pytest $(PARALLEL) tests/contract $(ARGS)
	$(BIN)/pytest $(PARALLEL) tests/e2e tests/attacks $(ARGS)

.PHONY: test-fast
test-fast: install ## Run the tests that need no cluster
	$(BIN)/pytest --numprocesses 2 tests/unit tests/golden tests/simulation $(ARGS)

.PHONY: test-kind
test-kind: ## Run the end-to-end tests in kind, with the image under the chart; needs Docker, kind and kubectl
	@for program in docker kind kubectl; do \
		command -v $$program > /dev/null || { echo "make test-kind needs $$program on the PATH" >&2; exit 1; }; done
	@docker info > /dev/null 2>&1 || { echo "make test-kind needs a Docker engine: \`docker info\` gets no answer" >&2; exit 1; }
	$(MAKE) install
	$(MAKE) image ARGS=
	TENANT_OPERATOR_TEST_KIND=1 TENANT_OPERATOR_TEST_IMAGE=$(IMAGE) \
		$(BIN)/pytest --kind-bin="$$(command -v kind)" tests/e2e $(ARGS)

.PHONY: lint
lint: install ## Check format, style and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

.PHONY: format
format: install ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: typecheck
typecheck: install ## Check the types
	$(BIN)/mypy

.PHONY: generate
generate: install ## Write what follows from the models and the chart: CRDs, references, schema, plain install, argocd-cm
	$(BIN)/python -m tools.crds crds
	$(BIN)/python -m tools.docs.pages docs
	$(BIN)/python -m tools.chart
	$(BIN)/python -m tools.argocd

.PHONY: verify
verify: generate ## Fail if what is generated differs from what is committed
	git diff --exit-code -- README.md crds docs charts manifests

.PHONY: bench
bench: install ## Measure provisioning against the floor (ARGS='--bursts 1,60,200 --rounds 3 --json FILE')
	$(BIN)/python -m bench $(ARGS)

.PHONY: release-check
release-check: verify ## Fail if the work tree is not fit to be tagged as the version in pyproject.toml
	@test -z "$$(git status --porcelain)" || { git status --short; echo "the work tree is not clean" >&2; exit 1; }
	@grep -q '^## \[$(VERSION)\] - 20' CHANGELOG.md || { echo "CHANGELOG.md: no section [$(VERSION)] with a date" >&2; exit 1; }
	@! grep -nE 'v[0-9]+\.[0-9]+\.[0-9]+' manifests/argocd/operator.yaml manifests/flux/operator.yaml | grep -v 'v$(VERSION)' \
		|| { echo "these name another version than v$(VERSION)" >&2; exit 1; }
	@! git grep -nwE 'TODO|FIXME|XXX' -- ':!Makefile' || { echo "left to do" >&2; exit 1; }
	@echo "fit to be tagged v$(VERSION)"

.PHONY: chart
chart: install ## Check the Helm chart and package it into dist/
	helm=$$($(BIN)/python -m devcluster helm) && \
		$$helm lint --strict charts/tenant-operator --set webhook.certificate.source=cert-manager && \
		$$helm package charts/tenant-operator --destination dist

.PHONY: image
image: ## Build the container image (IMAGE=, BASE_IMAGE=, BUILD='docker build', ARGS='--secret …')
	$(BUILD) --tag $(IMAGE) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg VERSION=$(VERSION) \
		--build-arg SOURCE="$$(git config --get remote.origin.url | sed 's#//[^/@]*@#//#')" --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(git log -1 --format=%cI) $(ARGS) .

.PHONY: lock
lock: install ## Resolve the dependencies anew and pin them: for development, for the image, and for building the wheel
	$(COMPILE) --all-extras --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements.lock --upgrade pyproject.toml -o requirements-runtime.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --upgrade - -o requirements-build.lock
