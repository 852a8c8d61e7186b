# One target per task. `make demo` and `make test` do all the set-up themselves.
# The Python for the environment; if it is not named, deploy/find-python.sh finds one.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Most tests wait for processes rather than compute, so that more of them than cores run side by side.
TEST_PROCESSES ?= 3
LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of processes; without compiled modules each of them compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast soak bench fuzz faults crash simulate lint types format lock cassandra cassandra-stop cassandra-clean debian clean help

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/run ## run the server with three meters, live on http://127.0.0.1:8034 (Ctrl-C ends it)
	@$(BIN)/python -m reference_client.demo

test: $(VENV)/dev debian ## run the whole test suite (PYTEST_ARGS="-k spool" for a part)
	@$(BIN)/python -m pytest -m "not soak" -n $(TEST_PROCESSES) $(PYTEST_ARGS)

test-fast: $(VENV)/dev ## run the quick tests of pure code, for the inner loop: under a minute
	@$(BIN)/python -m pytest -m "not soak and not thorough" -n $(TEST_PROCESSES) test/unit $(PYTEST_ARGS)

soak: $(VENV)/dev debian ## run the long tests: hours
	@$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

bench: $(VENV)/dev debian ## measure speed and memory; see docs/performance.md (BENCH_ARGS=--quick)
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

fuzz: $(VENV)/dev ## fuzz the parsers of untrusted input, one minute per target (FUZZ_ARGS="--seconds 600 body")
	@$(BIN)/python test/fuzz $(FUZZ_ARGS)

faults: $(VENV)/dev debian ## whole-system runs under seeded faults (SEEDS=10 FIRST=1 ENGINE=sqlite|cassandra)
	@$(BIN)/python test/system/faults --seeds $(or $(SEEDS),10) --first $(or $(FIRST),1) \
		--engine $(or $(ENGINE),sqlite) $(if $(ONLY),--only $(ONLY)) $(FAULTS_ARGS)

crash: $(VENV)/dev ## SQLite files after a crash at each operation (SEEDS=10 FIRST=0 SYNCHRONOUS=normal|full)
	@PYTHONPATH=test:. $(BIN)/python -m crash --first $(or $(FIRST),0) --seeds $(or $(SEEDS),10) \
		--synchronous $(or $(SYNCHRONOUS),normal) $(CRASH_ARGS)

simulate: $(VENV)/dev ## simulated synchronization and recovery (SEEDS=1000 FIRST=0 KIND=sync|recovery)
	@PYTHONPATH=test:. $(BIN)/python -m simulation --first $(or $(FIRST),0) --seeds $(or $(SEEDS),1000) \
		$(if $(KIND),--kind $(KIND)) $(if $(ONLY),--only $(ONLY))

lint: $(VENV)/dev ## check style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/dev ## check type hints
	@$(BIN)/mypy

format: $(VENV)/dev ## correct style and format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: $(VENV)/dev ## pin every package with its hashes, from pyproject.toml
	@$(BIN)/pip install -q 'uv==0.13.9'
	$(LOCK) -o requirements.txt
	$(LOCK) --extra cassandra -o requirements-cassandra.txt
	$(LOCK) --all-extras -o requirements-dev.txt

cassandra: $(VENV)/dev ## start a real Cassandra on 127.0.0.1 (NODES=3 for three nodes)
	@$(BIN)/python -m reference_cluster start --nodes $(or $(NODES),1)

cassandra-stop: $(VENV)/dev ## stop it
	@$(BIN)/python -m reference_cluster stop

cassandra-clean: $(VENV)/dev ## stop it and delete its data
	@$(BIN)/python -m reference_cluster clean

clean: ## remove the environment and caches (never data)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- set-up -----------------------------------------------------------------------------------

$(VENV)/bin/python:
	@python=$$(PYTHON="$(PYTHON)" deploy/find-python.sh) && { "$$python" -m venv $(VENV) || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing python3-venv" && \
		apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && "$$python" -m venv $(VENV); } || { \
		echo "the venv module is missing: sudo apt-get install python3-venv"; exit 2; }; }

$(VENV)/run: requirements.txt | $(VENV)/bin/python
	@echo "installing the server's packages into $(VENV)"
	@$(BIN)/pip install -q --require-hashes -r requirements.txt
	@touch $@

$(VENV)/dev: requirements-dev.txt | $(VENV)/bin/python
	@echo "installing the packages for development into $(VENV)"
	@$(BIN)/pip install -q --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/run

# Debian packages that the tests use, as package:program or package:file: a SIP peer, a browser, a SIP proxy with TLS, an
# MQTT broker, and checkers for alerts and the systemd unit.
DEBIAN := sip-tester:sipp chromium:chromium chromium-driver:chromedriver kamailio:kamailio \
	kamailio-tls-modules:/usr/lib/*/kamailio/modules/tls.so mosquitto:mosquitto \
	prometheus:promtool systemd:systemd-analyze fiu-utils:fiu-run

debian: ## install the Debian packages that the tests use (as root; otherwise name them)
	@missing=""; for pair in $(DEBIAN); do \
		PATH="$$PATH:/usr/sbin" command -v "$${pair#*:}" >/dev/null || \
		ls $${pair#*:} >/dev/null 2>&1 || missing="$$missing $${pair%%:*}"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
		echo "installing$$missing"; apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then \
		echo "some tests will be skipped; to run them: sudo apt-get install$$missing"; fi
