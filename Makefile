# `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

CONF ?= configs/local.yaml
# A fixed seed, so that a test run fails because of a change and not by chance. `make fuzz` uses
# random seeds.
SEED ?= 1
CASES ?= 20000
# The date and time, in UTC, of `make test-date`, and a part of the names of its tests. In the billing zone, Shanghai, the next
# month has begun then.
TEST_DATE ?= 2027-02-28 18:00:00
TESTS ?=
# How long each test of `make test-galera` goes on, at the least, and each target of `make fuzz-targets`.
SECONDS ?= 60
# The targets of `make fuzz-targets`.
TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
# Requests over each protocol of `make malformed`.
REQUESTS ?= 100000
# The files that `make mutants` changes, and the part of the mutants that one run takes.
MUTATE ?= src/biz/**/*.rs
SHARD ?= 0/1
# Where cargo builds.
BUILT := $${CARGO_TARGET_DIR:-target}
# Where `make tidb` builds the TiDB server.
TIDB ?= target/tidb
DEBIAN_PACKAGES := mariadb-server mariadb-backup galera-4 rsync iproute2 redis-server sqlite3 curl binutils chromium chromium-driver \
  fonts-dejavu-core fonts-wqy-microhei prometheus python3 python3-venv python3-pip nginx-light nodejs
# Envoy, and the Python packages of the tests.
PYTHON_TOOLS := target/tools/python

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: init
init: deps ## Install what the tests need and fetch the crates
	cargo fetch --locked

# Tests start private servers. policy-rc.d keeps the packages from starting services.
.PHONY: deps
deps: debian-packages $(PYTHON_TOOLS)/installed ## Install MariaDB, Galera, Redis, Chromium, promtool, nginx, Node (Debian packages) and Envoy, if missing

.PHONY: debian-packages
debian-packages:
	@if ! { command -v mariadbd && command -v mariadb-install-db && command -v mariabackup && command -v sqlite3 && command -v curl && command -v strip && [ -e /usr/lib/galera/libgalera_smm.so ] && command -v rsync && command -v ss && command -v redis-server && command -v chromedriver && command -v promtool && python3 -c "import ensurepip" && command -v node && [ -x /usr/sbin/nginx ] && python3 -m pip --version; } > /dev/null; then \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -qq; \
	  if [ ! -e /usr/sbin/policy-rc.d ]; then \
	    printf '#!/bin/sh\nexit 101\n' | $$sudo tee /usr/sbin/policy-rc.d > /dev/null; \
	    $$sudo chmod +x /usr/sbin/policy-rc.d; \
	    trap "$$sudo rm -f /usr/sbin/policy-rc.d" EXIT; \
	  fi; \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $(DEBIAN_PACKAGES); \
	fi

# The packages are of one place, so that tests find them whatever Python the machine has.
$(PYTHON_TOOLS)/installed: tests/it/proxies/requirements.txt | debian-packages
	rm -rf $(PYTHON_TOOLS)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target $(PYTHON_TOOLS) -r $<
	@touch $@

.PHONY: build
build: ## Build bin/server, bin/cron and bin/payment-sandbox
	cargo build --release --locked --bins
	@mkdir -p bin
	@install "$(BUILT)"/release/{server,cron,payment-sandbox} bin/

.PHONY: build-cron
build-cron: ## Build only bin/cron
	cargo build --release --locked --bin cron
	@mkdir -p bin
	@install "$(BUILT)"/release/cron bin/

# A short first build: the server alone, without optimisation. `make build` makes the programs of production.
.PHONY: run
run: ## Run the server on ports 8107 (HTTP) and 9107 (gRPC) (CONF=configs/local.yaml)
	cargo build --locked --profile quick --bin server
	"$(BUILT)"/quick/server -conf $(CONF)

# The console shows the user of console.demo_user.
.PHONY: demo
demo: ## Fill the database with a year of history of a demo user (CONF=configs/local.yaml DEMO_USER=)
	cargo build --locked --profile quick --example demo
	"$(BUILT)"/quick/examples/demo $(CONF) $(DEMO_USER)

.PHONY: run-cron
run-cron: build-cron ## Run cron with all schedules (CONF=configs/local.yaml)
	bin/cron -conf $(CONF)

.PHONY: run-sandbox
run-sandbox: build ## Run a simulated payment-service on port 9101 (CONF=configs/local.yaml)
	bin/payment-sandbox -conf $(CONF)

.PHONY: run-all
run-all: build ## Run cron in the background and the server in the foreground, logs in logs/
	@mkdir -p logs
	@bin/cron -conf $(CONF) > logs/cron.log 2>&1 & echo $$! > logs/cron.pid; \
	  bin/server -conf $(CONF) > >(tee -a logs/server.log) 2>&1 & echo $$! > logs/server.pid; \
	  trap 'kill $$(cat logs/cron.pid logs/server.pid) 2> /dev/null || true; rm -f logs/*.pid' EXIT; \
	  wait $$(cat logs/server.pid)

.PHONY: stop-all
stop-all: ## Stop the processes of run-all
	@for pid in $$(cat logs/server.pid logs/cron.pid 2> /dev/null); do kill $$pid 2> /dev/null || true; done

.PHONY: audit
audit: build-cron ## Audit the books (CONF=configs/local.yaml)
	bin/cron -conf $(CONF) --once audit

# Many tests wait for a server or a tick, so more of them than processors run at once.
THREADS ?= $(shell n=$$(nproc); echo $$((n > 4 ? n : 4)))

.PHONY: test
test: export RUST_TEST_THREADS := $(THREADS)
test: deps ## Run all tests, on private servers on free ports
	PROPTEST_RNG_SEED=$(SEED) cargo test --locked

# Tests that need an installed server are skipped by name. With BILLING_TEST_FAST they fail.
.PHONY: test-fast
test-fast: export PROPTEST_RNG_SEED = $(SEED)
test-fast: export BILLING_TEST_FAST = 1
test-fast: export RUST_TEST_THREADS = 10
test-fast: ## Run the library tests and the SQLite tests; they need nothing installed
	@run="test"; if cargo nextest --version > /dev/null 2>&1; then run="nextest run"; fi; set -x; \
	  cargo $$run --locked --lib --test it -- $(patsubst %,--skip %,$(shell grep -v '^\#' tests/it/needs-servers))

# The clock moves in the tests and in all processes that they start, and not in cargo.
RUST_TARGET = $(shell rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
SHIFTED_CLOCK := target/tools/shifted_clock.so

.PHONY: test-date
test-date: export PROPTEST_RNG_SEED = $(SEED)
test-date: export RUST_TEST_THREADS := $(THREADS)
test-date: deps $(SHIFTED_CLOCK) ## Run the tests at another date (TEST_DATE='2027-02-28 18:00:00' TESTS=statements::)
	date=$$(date -u -d '$(TEST_DATE)' +%s); \
	  export CARGO_TARGET_$(RUST_TARGET)_RUNNER="env LD_PRELOAD=$(abspath $(SHIFTED_CLOCK)) CLOCK_SHIFT=$$((date - $$(date +%s)))"; \
	  cargo test --locked -- $(TESTS)

$(SHIFTED_CLOCK): tests/date/shift.c
	@mkdir -p $(@D)
	$(CC) -O1 -Wall -Wextra -fPIC -shared -o $@ $< -ldl

.PHONY: test-galera
test-galera: deps ## Test new random loads on a Galera cluster for longer (SECONDS=600 SEED=7)
	GALERA_SECONDS=$(SECONDS) GALERA_SEED=$(SEED) cargo test --locked --test it -- galera::

# The server is built once: later runs find it.
.PHONY: tidb
tidb: $(TIDB)/tidb ## Build the TiDB server of test-tidb (needs Go)

$(TIDB)/tidb: $(wildcard tests/engines/tidb/*.* tests/engines/tidb/parser/*/*)
	nice tests/engines/tidb/build.sh $(TIDB)

.PHONY: test-tidb
test-tidb: export BILLING_TEST_TIDB = $(abspath $(TIDB)/tidb)
test-tidb: export PROPTEST_RNG_SEED = $(SEED)
test-tidb: deps tidb ## Run the MySQL tests on TiDB
	cargo test --locked --test it -- MySql crash:: concurrency:: ports:: ready:: schema:: stalls:: \
	  $(patsubst %,--skip %,Sqlite $(shell grep -v '^\#' tests/it/not-on-tidb))

.PHONY: test-schema
test-schema: export SEED := $(SEED)
test-schema: deps ## Hold a server against its OpenAPI documents (BILLING_SCHEMA_SECONDS=600 SEED=7)
	python3 scripts/schema.py

.PHONY: test-clients
test-clients: deps ## Generate clients in Python, TypeScript and Go, and run a session with each (CLIENTS='go')
	python3 tests/clients/run.py $(CLIENTS)

# axe-core looks for faults of accessibility.
.PHONY: test-console
test-console: deps ## Test the console in Chromium with axe-core (needs npm)
	npm install --silent --no-audit --no-fund --prefix target/console axe-core@4.14.1
	BILLING_AXE=$(abspath target/console/node_modules/axe-core/axe.min.js) cargo test --locked --test it -- console::

.PHONY: fuzz
fuzz: deps ## Test new random histories (CASES=20000); fuzz-targets is for malformed input
	PROPTEST_CASES=$(CASES) cargo test --locked --lib --test it -- random

# New inputs go to a folder of the build: fuzz/corpus stays small.
.PHONY: fuzz-targets
fuzz-targets: ## Run each fuzz target on malformed input (SECONDS=600 TARGETS='jwt config')
	@command -v cargo-fuzz > /dev/null || { echo "install it: cargo install --locked cargo-fuzz"; exit 1; }
	for target in $(TARGETS); do \
	  mkdir -p fuzz/target/corpus/$$target; \
	  cargo +nightly fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=2048 -print_final_stats=1; \
	done

.PHONY: malformed
malformed: export BILLING_MALFORMED = $(REQUESTS)
malformed: export BILLING_MALFORMED_SEED = $(SEED)
malformed: ## Send malformed requests over each protocol (REQUESTS=100000 SEED=7)
	cargo test --locked --test it -- malformed:: --nocapture --test-threads 1

.PHONY: harm
harm: ## Repeat the loads that must do no harm, from outside (HARM='--only bodies --seconds 10 --mysql')
	cargo build --release --locked --bin server --bin payment-sandbox
	python3 scripts/harm.py --server "$(BUILT)/release/server" --sandbox "$(BUILT)/release/payment-sandbox" $(HARM)

.PHONY: check-dashboards
check-dashboards: deps ## Ask a Prometheus for each panel of deploy/grafana, under load
	cargo build --release --locked --bin server --bin cron
	python3 scripts/dashboards.py --bin "$(BUILT)/release"

# The replies of the documents that differ from those of today are written into the documents.
.PHONY: examples
examples: deps ## Replay the sessions of README.md and docs/, and write new replies into them
	BILLING_WRITE_EXAMPLES=1 cargo test --locked --test it -- replay::every_console

# A few random cases, so that a mutant takes seconds. `.cargo/mutants.toml` has the other settings.
.PHONY: mutants
mutants: export PROPTEST_RNG_SEED = $(SEED)
mutants: export PROPTEST_CASES = 200
mutants: ## Change the business rules and count the changes that no test notices (SHARD=0/6)
	@command -v cargo-mutants > /dev/null || { echo "install it: cargo install --locked cargo-mutants"; exit 1; }
	cargo mutants --jobs 1 --output target $(foreach glob,$(MUTATE),--file '$(glob)') --sharding round-robin --shard $(SHARD)

.PHONY: screenshots
screenshots: deps ## Take the screenshots of the documents in a real browser
	BILLING_SCREENSHOTS=docs cargo test --locked --test it -- a_user_pays_with_a_click console::pictures::

.PHONY: bench
bench: deps ## Measure under load, on private servers (BENCH='--rounds 1 --only deduct')
	cargo bench --locked --bench load -- $(BENCH)

.PHONY: bench-data
bench-data: deps ## Create data for bench-size, once: a million users, ten million records (8 GB)
	cargo bench --locked --bench size -- --data-only $(BENCH)

.PHONY: bench-size
bench-size: deps ## Measure with the data of bench-data and with little data (BENCH='--only reads,audit')
	cargo bench --locked --bench size -- $(BENCH)

.PHONY: bench-prices
bench-prices: deps ## Measure the load of a hundred thousand price versions
	cargo bench --locked --bench prices

.PHONY: bench-webhooks
bench-webhooks: deps ## Measure the drain of events to webhooks (BENCH='--webhooks 50 --events 10000')
	cargo bench --locked --bench webhooks -- $(BENCH)

.PHONY: bench-tokens
bench-tokens: ## Measure token counting
	cargo bench --locked --bench tokens

# A failure to fetch the database and an advisory have the same exit code, so the database is fetched first.
.PHONY: check
check: ## Check formatting and lints, and with cargo-deny bans, licences, sources and advisories
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	@if ! command -v cargo-deny > /dev/null; then \
	  echo "cargo-deny is not installed; skipping bans, licences, sources and advisories"; exit; \
	fi; \
	cargo deny --log-level error check bans licenses sources; \
	if why=$$(cargo deny --log-level error fetch db 2>&1); then cargo deny --log-level error --offline check advisories; \
	else echo "the database of advisories could not be fetched; skipping advisories: $$(grep -m 1 . <<< "$$why")"; fi

.PHONY: clean
clean: ## Remove builds and benchmark data; data/ stays
	rm -rf target bin
