# Two commands on a fresh machine: `make run` and `make test`. Needs Python >= 3.11 and make.
#   make run            play a recorded day as a paper session (KEEP=1 leaves the stack up)
#   make week           play five recorded days back to back (needs ../shared/data/open)
#   make test           all but the longest (make test-long, make test-nightly); make lint; make bench
#   make chaos          golden trades x faults x failpoints; goes on where it ended (see below)
#   make simulate       whole trades under seeded mishaps (SEEDS=2000, or SEED=7 BROKER=tradier)
#   make museum         hunt the planted public bugs: seeds needed, invariant (NAMES="a b")
#   make mutants        mutation score of gate, orders, steps, money and ledger; goes on
#   make lock           write requirements.lock anew from pyproject.toml
#   PYTHON=python3.12 make test    another interpreter
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP_OF_LOCK := $(VENV)/installed
PIP_FLAGS := --no-deps --require-hashes --disable-pip-version-check --quiet
KEEP ?= 0
RUN_FLAGS := $(if $(filter-out 0,$(KEEP)),--keep)
# Two halves so that the quick one tells first. Both run in parallel, file by file and the longest
# first (tests/conftest.py): each pytest worker has a Temporal server of its own, PostgreSQL is one
# server with a database per worker. The slow half mostly waits: three workers keep two cores busy.
# Marker `slow` (the whole recorded day, kills with servers down): `make test-long`, in CI too.
SLOW_TESTS := $(wildcard tests/test_architecture.py tests/replay/ tests/workflow/ tests/golden/ tests/chaos/ tests/e2e/)
SLOW_WORKERS ?= 3
BY_FILE := --dist loadfile --no-loadscope-reorder
FAST_TESTS := $(filter-out $(SLOW_TESTS) tests/__pycache__/,$(wildcard tests/*/))

# A machine that stalls for seconds fails tests that are right: what failed is run once more, alone.
# Both runs are printed, and what fails twice fails. $(1): how the first run is spread, $(2): tests.
define tested
	@echo "pytest $(1) $(2)"; $(BIN)/python -m pytest -q -o cache_dir=.pytest_cache/$@ $(1) $(2) || \
	{ code=$$?; test $$code -eq 1 || exit $$code; \
	  echo "== FAILED ONCE, now alone ($@)"; \
	  $(BIN)/python -m pytest -q -o cache_dir=.pytest_cache/$@ --last-failed --last-failed-no-failures none $(2); }
endef

# Whole trades in virtual time under seeded mishaps: SEEDS=2000, or one seed in full: SEED=7 BROKER=tradier
SEEDS ?= 200
SIMULATE_FLAGS := $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(if $(BROKER),--broker $(BROKER))

.PHONY: museum mutants simulate run week test test-fast test-slow test-long test-nightly lint format bench chaos record-history chaos-report soak lock clean install
.DEFAULT_GOAL := test

install: $(STAMP_OF_LOCK)

# The stamp holds the lock file's hash: a checkout with the same lock installs nothing again,
# whatever its file times say.
$(STAMP_OF_LOCK): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this was " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@hash=$$($(BIN)/python -c 'import hashlib; print(hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest())'); \
	if [ "$$(cat $@ 2>/dev/null)" = "$$hash" ]; then touch $@; else \
	  echo "installing pinned dependencies into $(VENV)"; \
	  $(BIN)/python -m pip install $(PIP_FLAGS) -r requirements.lock && echo "$$hash" > $@; \
	fi

run: install
	@$(BIN)/python starter.py demo $(RUN_FLAGS)

week: install
	@$(BIN)/python starter.py demo --week $(RUN_FLAGS)

# Both halves run even if the first one fails.
test:
	@$(MAKE) --no-print-directory --keep-going test-fast test-slow

test-fast: install
	@test -d ../shared/data/open || echo "NOTE: ../shared/data/open is not there: tests on recorded market data are left out"
	$(call tested,-n 2 $(BY_FILE),$(FAST_TESTS))

test-slow: install
	$(call tested,-n $(SLOW_WORKERS) $(BY_FILE),-m "not slow and not nightly" $(SLOW_TESTS))

test-long: install
	$(call tested,,-m slow $(wildcard tests/e2e))

test-nightly: install
	$(call tested,,-m nightly $(wildcard tests/e2e tests/workflow))

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

simulate: install
	$(BIN)/python -m tests.simulation $(SIMULATE_FLAGS)

museum: install
	@$(BIN)/python -m tests.museum $(NAMES)

mutants: install
	@$(BIN)/python -m tests.museum.mutants $(NAMES)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m tests.bench

# One run per cell trade x broker x fault x failpoint; rows in reports/chaos/cells.jsonl. Goes on
# with the cells that are left; FRESH=1 forgets them, AGAIN=1 plays only those that are violated.
# Also BROKERS=, EVERY=n (a sample), PACE=2 (longer deadlines for a busy machine).
chaos: install
	$(BIN)/python -m tests.chaos --trades "$(TRADES)" --brokers "$(BROKERS)" --faults "$(FAULTS)" \
	  --from $(or $(FROM),0) --every $(or $(EVERY),1) --jobs $(or $(JOBS),6) \
	  --minutes $(or $(MINUTES),0) --pace $(or $(PACE),1) $(if $(FRESH),--fresh) $(if $(AGAIN),--again)

# Trades without end, one fault a second, memory watched: MINUTES=n.
soak: install
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),20)

# Minutes; hours with FULL=1. ONLY="simulate museum" for a part; the report says what was left out.
chaos-report: install
	$(BIN)/python -m tests.proof $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY))

# Anew only when no trade of an older build can be open: the histories stand for such trades.
record-history: install
	$(BIN)/python -m tests.replay.record $(SHAPES)

# uv is a tool of the maintainer, not of a run: it comes from the registry when it is asked for.
# mlfinpy pins old numpy and numba; only its data file is used, so it is appended as it stands.
lock: install
	@test -x .uv/bin/uv || ($(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv)
	@.uv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --group dev --quiet -o .uv/resolved.lock
	@sed -n '/^mlfinpy==/,/[^\\]$$/p' requirements.lock > .uv/data.lock
	@(echo "# Written by make lock; installed with pip --no-deps --require-hashes."; \
	  cat .uv/resolved.lock .uv/data.lock) > requirements.lock

clean:
	rm -rf $(VENV) .uv .holdfast .mypy_cache .ruff_cache .pytest_cache .hypothesis reports
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
