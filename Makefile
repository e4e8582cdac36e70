# Everything prepares itself on a fresh Debian machine with Python 3.11 or newer: `make demo`, `make test`, `make lint`.
SHELL := /bin/bash
# compiled modules, and tests that pytest has rewritten once, are kept for the next run
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= $(or $(firstword $(notdir $(wildcard $(foreach version,11 12 13,$(addsuffix /python3.$(version),$(subst :, ,$(PATH))))))),python3)
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
UV := $(VENV)/bootstrap/bin/uv
PYTHON_HELP := install Python 3.11 or newer (Debian: apt-get install python3.11-venv), or name one: make PYTHON=...
VENV_PACKAGE = $(notdir $(PYTHON))-venv
# Installs Debian packages; fails where it cannot: not root, not Debian, not connected.
apt = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q >/dev/null 2>&1 \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(1) >/dev/null 2>&1; }
DEBIAN := iproute2 wireguard-go wireguard-tools openvpn nftables curl libfaketime prometheus prometheus-alertmanager
LOCK := requirements-dev.lock
PROCESSES ?= 3
SLOW_PROCESSES ?= 2
SCALE ?= 5
EXECUTIONS ?= 1000000
# more processes than processors, for half of a test's time is waiting; who is done early takes over from the others
SPREAD = -n $(PROCESSES) --dist worksteal
# modules that share a lab still depend on the order in which they use it
IN_ORDER = --dist loadscope -p no:randomly
NIGHT = -o asyncio_debug=true -o timeout=1800
# ARGS that name a file leave one of the two runs without tests, which is pytest's status 5
OR_NONE = $(if $(ARGS),|| test $$? = 5)
CONTAINERS = $(shell command -v podman >/dev/null || echo ' and not containers')
NO_PODMAN = command -v podman >/dev/null || echo "podman is missing: the tests that need a real container engine are left out"

.PHONY: help ready lint test test-slow test-all test-nightly threats fuzz demo dist dist-check bench lock wire goldens dashboards clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

ready: .make/venv .make/wire .make/debian ## Prepare the environment (done by the others when needed)

lint: ready ## ruff, mypy --strict, names and docstrings, one-way imports, declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/check_language.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .
	$(BIN)/deptry tests --exclude '^$$' --ignore DEP002,DEP004

test: ready ## The fast tests (below 4 minutes)
	@$(NO_PODMAN)
	$(BIN)/pytest -m "not slow and not nightly$(CONTAINERS)" $(SPREAD) $(ARGS)

test-slow: ready ## The slow tests; those that make network namespaces after the others
	@$(NO_PODMAN)
	$(BIN)/pytest -m "slow and not nightly and not tunnels$(CONTAINERS)" -n $(SLOW_PROCESSES) --dist worksteal $(ARGS)
	$(BIN)/pytest -m "slow and not nightly and tunnels$(CONTAINERS)" -n $(SLOW_PROCESSES) $(IN_ORDER) $(ARGS)

test-all: test test-slow ## All tests but those of the night

test-nightly: ready ## All tests, with asyncio's debug mode and five times the examples
	@$(NO_PODMAN)
	EXITPLANE_TEST_SCALE=$(SCALE) $(BIN)/pytest -m "not tunnels$(CONTAINERS)" $(NIGHT) -n $(SLOW_PROCESSES) --dist worksteal $(ARGS) $(OR_NONE)
	EXITPLANE_TEST_SCALE=$(SCALE) $(BIN)/pytest -m "tunnels$(CONTAINERS)" $(NIGHT) -n $(SLOW_PROCESSES) $(IN_ORDER) $(ARGS) $(OR_NONE)

threats: ready ## The test of each door in docs/threat-model.md
	$(BIN)/pytest $$(grep -oE 'tests/[a-z0-9_/]+\.py::[a-z0-9_]+' docs/threat-model.md | sort -u) -n $(SLOW_PROCESSES) $(IN_ORDER) $(ARGS)

fuzz: ready ## Feed the parsers that read what strangers send, EXECUTIONS times in all
	EXITPLANE_FUZZ_EXECUTIONS=$(EXECUTIONS) $(BIN)/pytest tests/fuzz -o timeout=14400 -n $(SLOW_PROCESSES) --dist worksteal $(ARGS)

demo: ready ## Start everything on this machine; CHECK=1 asserts instead of waiting
	$(BIN)/exitplane demo $(if $(CHECK),--check) $(ARGS)

dist: ready ## Build the sdist, and from it the wheel, into dist/
	rm -rf dist
	$(UV) build -q --python $(BIN)/python --build-constraint $(LOCK) --out-dir dist

dist-check: dist ## Install the wheel far from the checkout and run it; see that both archives are whole
	$(BIN)/python .ci/check_wheel.py --uv $(UV)

bench: ready ## The benchmarks
	$(BIN)/python -m bench $(ARGS)

goldens: ready ## Rewrite the golden files and delete orphans
	$(BIN)/pytest tests/golden --rewrite $(ARGS)

dashboards: ready ## Rewrite the dashboards of Grafana from deploy/observability/dashboards.py
	$(BIN)/python -m deploy.observability.dashboards

lock: $(UV) ## Lock the dependencies, by version and hash; UPGRADE=1 takes the newest of all, otherwise what is locked stays
	$(UV) pip compile -q $(if $(UPGRADE),--upgrade) --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(UV) pip compile -q $(if $(UPGRADE),--upgrade) --generate-hashes --no-header --python-version 3.11 --extra dev pyproject.toml \
		-c requirements.lock -o $(LOCK)

wire: .make/wire ## Compile proto/

.make/venv: $(LOCK) pyproject.toml $(UV)
	test -x $(BIN)/python || $(UV) venv -q --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes $(LOCK)
	$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q agent api cli client demo keeper model xds
	@mkdir -p .make && touch $@

# A uv of this version that is on the PATH will do, so that a warm cache is enough (UV_OFFLINE=1).
$(UV):
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] >= (3, 11)' 2>/dev/null \
		|| { echo "$(PYTHON) is missing or older than 3.11: $(PYTHON_HELP)" >&2; exit 1; }
	@if [ "$$(uv --version 2>/dev/null | cut -d' ' -f2)" = $(UV_VERSION) ]; then \
		mkdir -p $(@D) && ln -sf "$$(command -v uv)" $@; \
	else \
		$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call apt,$(VENV_PACKAGE)) \
			|| { echo "$(PYTHON) has no venv module: install $(VENV_PACKAGE) (as root: apt-get install $(VENV_PACKAGE))" >&2; exit 1; }; \
		$(PYTHON) -m venv $(VENV)/bootstrap && $(VENV)/bootstrap/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION) \
			|| { echo "uv $(UV_VERSION) is not to be had: connect to a package index, or put that uv on the PATH" >&2; exit 1; }; \
	fi

.make/wire: $(wildcard proto/*) .make/venv
	$(BIN)/python proto/compile.py
	@mkdir -p .make && touch $@

# What the tunnels and the tests of alerts need. Where it cannot be installed one line says so, and the demo and the tests do without.
.make/debian:
	@missing=""; for package in $(DEBIAN); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
		$(call apt,$$missing) || echo "For real tunnels and the tests of alerts install:$$missing (as root: apt-get install$$missing)"; \
	fi
	@mkdir -p .make && touch $@

clean: ## Remove what make made
	rm -rf $(VENV) .make build dist xds/wire *.egg-info
