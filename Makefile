# make test: tests/run.py says in which phases. The tests start a thousand processes, so bytecode is written, also where
# the environment says otherwise.
# make run and make test need python 3.11 or later with venv, and nothing else.
# Every target that installs does so once; a change of pyproject.toml or of locks/ makes it install again.

VENV  := .venv
BIN   := $(VENV)/bin
ARGS  ?=
PYTHON ?=

.DEFAULT_GOAL := help
.PHONY: help run test agents crossed wrk servers matrix simulate simulate-exhaustive simulate-fleet simulate-fleet-small simulate-mutants chaos fuzz fleet-oracle oracle upstream-tests lint types format bench bench-pool bench-guard bench-report lock release release-check docs audit clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

run: $(VENV)/.have-service ## serve on 127.0.0.1:8000 (ARGS="--bind :9000" and the like go to gunicorn)
	@exec $(BIN)/gunicorn -c deploy/conf.py $(ARGS)

test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.have-test ## the whole test suite (ARGS="-k settings" and the like go to pytest; LOAD=8: beside eight busy processes)
	@$(BIN)/python -m compileall -q poolmgr worker deploy tests bench
	@LOAD=$(LOAD) exec $(BIN)/python -m tests.run $(ARGS)

agents: $(VENV)/.have-agents ## install the APM agents that the test suite then has tests with (five, 71 MB)

crossed: $(VENV)/.have-test ## a hundred thousand answers of the HTTP service under cuts, kills and pushes, none another's
	@POOLMGR_CROSSED=100000 exec $(BIN)/python -m pytest tests/integration/test_http_crossed.py $(ARGS)

oracle: $(VENV)/.have-test ## the promise for SECONDS=30 a storm, of threads and of tasks: kills, reloads and upgrades at a full server
	@POOLMGR_ORACLE_SECONDS=$(or $(SECONDS),30) exec $(BIN)/python -m pytest tests/integration/test_oracle.py tests/integration/test_aio_oracle.py tests/integration/test_restarts.py $(ARGS)

fleet-oracle: $(VENV)/.have-test ## the fleet's promise for SECONDS=300: four hosts in namespaces, a fault every two seconds (SEED=7 OFF=gate; as root)
	@exec $(BIN)/python -m tests.fleet.oracle --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED)) $(if $(OFF),--off $(OFF)) $(ARGS)

wrk: $(VENV)/.have-test ## the HTTP service under wrk for SECONDS=30 a round, beside the same service on a bare pool
	@WRK_SECONDS=$(or $(SECONDS),30) $(BIN)/python -m pytest tests/integration/test_http_load.py $(ARGS)

simulate: $(VENV)/.have-test ## SEEDS=10000 worlds in virtual time, on all cores: the real ledger and members, every fault
	@exec $(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

simulate-exhaustive: $(VENV)/.have-test ## small worlds in every order of every step (minutes; ARGS names the largest)
	@exec $(BIN)/python -m tests.simulation.exhaustive $(ARGS)

simulate-fleet: $(VENV)/.have-test ## SEEDS=10000 worlds of hosts that share a budget, a thousand hosts, then the smallest worlds in every order (LIMIT=2000000 states of each, ARGS names them)
	@$(BIN)/python -m tests.simulation --world fleet --seeds $(or $(SEEDS),10000)
	@$(BIN)/python -m tests.simulation.fleet.crowd
	@exec $(BIN)/python -m tests.simulation.fleet.exhaustive --all --limit $(or $(LIMIT),2000000) $(ARGS)

simulate-fleet-small: $(VENV)/.have-test ## the fleet's smallest worlds, without a fault and with each, in every order of every step, to their end (minutes; ARGS names them)
	@exec $(BIN)/python -m tests.simulation.fleet.exhaustive $(ARGS)

simulate-mutants: $(VENV)/.have-test ## switch every rule off in turn: which seed finds it
	@exec $(BIN)/python -m tests.simulation.mutants $(ARGS)

chaos: $(VENV)/.have-test ## MINUTES=5 of random faults, SEED=n: real gunicorn, real signals, an exact oracle
	@exec $(BIN)/python -m tests.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(VENV)/.have-fuzz ## SECONDS=60 of frames, snapshots, lists of clients, settings and URLs, and of commands against the HTTP service
	@exec $(BIN)/python -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

servers: $(VENV)/.have-test ## some files about permits, proof, pools, the service and fleets, with each server that is installed
	@exec $(BIN)/python -m tests.matrix.served $(ARGS)

matrix: $(VENV)/.have-test ## run, test and servers on Debian 12, 13 and unstable, in roots of their own: docs/platforms.md (SYSTEM=trixie PARTS=run,unit; as root, with debootstrap)
	@exec $(BIN)/python -m tests.matrix $(if $(SYSTEM),--system $(SYSTEM)) $(if $(PARTS),--parts $(PARTS)) $(ARGS)

upstream-tests: $(VENV)/.have-upstream ## redis-py's own tests, with its pools and with ours at the same time (two minutes; skipped without namespaces or the index)
	@exec $(BIN)/python -m tests.upstream.run $(ARGS)

lint: $(VENV)/.have-dev ## style, the direction of imports, no circle among them, and nothing that waits in what is pure
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.structure

types: $(VENV)/.have-dev ## mypy --strict
	$(BIN)/mypy

format: $(VENV)/.have-dev ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.have-bench ## all benchmarks, a quarter of an hour: tables, JSON, charts, docs/benchmarks.md
	@exec $(BIN)/python -m bench run $(ARGS)

bench-pool: $(VENV)/.have-bench ## only the pool's: checkout, GET, burst, fairness
	@exec $(BIN)/python -m bench run checkout get burst fairness $(ARGS)

bench-guard: $(VENV)/.have-bench ## seconds: has something become much slower than its peer?
	@exec $(BIN)/python -m bench guard

bench-report: $(VENV)/.have-bench ## charts and docs/benchmarks.md anew from the last run's JSON
	@exec $(BIN)/python -m bench report

lock: $(VENV)/.have-lock ## locks/*.txt from pyproject.toml: versions and hashes of what is installed here (ARGS=--upgrade: the newest)
	@$(BIN)/python .ci/lock.py $(ARGS)

release: $(VENV)/.have-release ## dist/: wheel, sdist, bill of materials and checksums of what is committed; the same bytes each time
	@$(BIN)/python .ci/release.py $(ARGS)

release-check: $(VENV)/.have-release ## the sdist by itself, without git: it installs, passes its unit tests and makes the same wheel
	@$(BIN)/python .ci/release.py --check

docs: $(VENV)/.have-docs ## build/site/: the documents and the reference of all public names, with every link checked
	@$(BIN)/python .ci/site.py

audit: $(VENV)/.have-audit ## known vulnerabilities of what is locked; says so where advisories cannot be had
	@$(BIN)/python .ci/audit.py

clean: ## remove everything that was made
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment ---------------------------------------------------------------------------

# A stamp says which extra is installed: the files of its lock, with their hashes, and then this package without any
# look at an index. pip is quick where there is nothing to do.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

$(VENV)/.have-%: pyproject.toml $(wildcard locks/*.txt) | $(VENV)/.whole
	@echo "installing '.[$*]' into $(VENV) ..."
	@$(PIP) install --require-hashes --no-deps -r locks/build.txt -r locks/$*.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# In a directory of their own: redis-py loads OpenTelemetry wherever it finds it, and ddtrace brings a plugin for pytest.
$(VENV)/.have-agents: locks/agents.txt | $(VENV)/.whole
	@echo "installing the APM agents into $(VENV)/agents ..."
	@$(PIP) install --require-hashes --no-deps --upgrade --target $(VENV)/agents -r $<
	@touch $@

$(VENV)/.have-lock $(VENV)/.have-audit: $(VENV)/.have-%: locks/%.txt | $(VENV)/.whole
	@$(PIP) install --require-hashes --no-deps -r $<
	@touch $@

$(VENV)/.whole:
	@sh .ci/venv $(VENV) $(PYTHON)
