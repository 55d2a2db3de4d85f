# Everything a checkout needs. `make` lists the targets.
#
# PORT, HOST, KEYPORTAL_URL, KEYPORTAL_DATA, DATABASE_URL, WEB_CONCURRENCY and all other settings
# in docs/configuration.md reach the server from the environment or from this command line.

PYTHON ?= python3
BIN := .venv/bin
# Stamp files in .venv/: the Python that made it, and which lock files are installed. With another
# Python version, or without its interpreter, the environment is made again.
VERSION := $(shell $(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)
ENVIRONMENT := .venv/python-$(VERSION)
SERVING := $(ENVIRONMENT).serving
DEVELOPING := $(ENVIRONMENT).developing
# Wheels only, so that no compiler is needed.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	--only-binary=:all:
HAS_VENV = $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-header --no-emit-index-url --no-emit-find-links
# Checks must not read settings or data of this machine. Without CI and BUILD_NUMBER, the summary of
# pytest is short: with them, it repeats complete error messages.
CLEAN := env $(foreach name,BUILD_NUMBER CI DATABASE_URL DEBUG DEFAULT_FROM_EMAIL EMAIL_URL HOST \
	KEYPORTAL_ACCESS_LOG KEYPORTAL_ALARM_NETWORKS KEYPORTAL_ALARM_REFUSALS \
	KEYPORTAL_API_REQUESTS_PER_MINUTE KEYPORTAL_AUDIT_RETENTION_DAYS KEYPORTAL_BODY_DISK KEYPORTAL_BODY_MEMORY KEYPORTAL_CALL_RETENTION_DAYS KEYPORTAL_CORS_ORIGINS KEYPORTAL_CREDENTIAL_KEYS \
	KEYPORTAL_DATA KEYPORTAL_DB_POOLER KEYPORTAL_DRAIN_SECONDS KEYPORTAL_GITHUB_KEYS_FILE KEYPORTAL_GRACEFUL_TIMEOUT KEYPORTAL_KEY_PREFIXES \
	KEYPORTAL_LOG_FORMAT KEYPORTAL_LOG_LEVEL KEYPORTAL_MANAGEMENT_KEY_PREFIXES KEYPORTAL_MAX_BODY_BYTES \
	KEYPORTAL_MAX_KEYS KEYPORTAL_MAX_RUNNING_CALLS \
	KEYPORTAL_METRICS_HOST KEYPORTAL_METRICS_PORT KEYPORTAL_METRICS_TEAMS KEYPORTAL_OIDC_PROVIDERS \
	KEYPORTAL_PASSWORD_SIGN_IN \
	KEYPORTAL_PROXY_HEADER KEYPORTAL_REQUIRE_SECOND_FACTOR \
	KEYPORTAL_RESPONSE_RETENTION_DAYS KEYPORTAL_SCHEDULER \
	KEYPORTAL_SCIM_GROUPS KEYPORTAL_SCIM_TOKEN \
	KEYPORTAL_SESSION_DAYS KEYPORTAL_SESSION_IDLE_HOURS \
	KEYPORTAL_STREAM_KEEPALIVE_SECONDS KEYPORTAL_TEAM_CREATION KEYPORTAL_TEAM_SERVERS KEYPORTAL_TRUSTED_PROXIES KEYPORTAL_URL PORT SECRET_KEY \
	WEB_CONCURRENCY,-u $(name))
# Tests start hundreds of processes. Without cached bytecode, each would compile all modules. Some run
# make, which is not part of this one.
TEST := $(CLEAN) -u PYTHONDONTWRITEBYTECODE -u MAKEFLAGS -u MAKELEVEL
# While programs are installed, which waits for the network, pytest compiles all test files of a fresh
# checkout. Otherwise each of its processes would compile all of them.
COMPILE := [ -d tests/__pycache__ ] || $(TEST) $(BIN)/pytest --collect-only --quiet >/dev/null 2>&1
THROWAWAY = $(CLEAN) KEYPORTAL_URL=https://keys.example.com KEYPORTAL_TRUSTED_PROXIES=127.0.0.1 \
	KEYPORTAL_DATA="$$folder" \
	SECRET_KEY="$$($(BIN)/python -c 'import secrets; print(secrets.token_hex(32))')" \
	KEYPORTAL_CREDENTIAL_KEYS=b25seS1mb3ItY2hlY2tzLW9ubHktZm9yLWNoZWNrcyE=

# For `make bench`, `make faults` and `make clients`: what to run (all if empty), and the number of requests before the
# memory of a worker is measured again.
ONLY ?=
REQUESTS ?= 1000000
BENCHMARKS = $(BIN)/python -m benchmarks $(ONLY) --requests $(REQUESTS)

.DEFAULT_GOAL := help
.PHONY: help run test check bench faults clients format migrations requirements missing

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(SERVING) ## Serve portal and gateway, with a demo team: make run PORT=8000 HOST=127.0.0.1
	@exec $(BIN)/python -m keyportal.serve --demo

test: $(DEVELOPING) ## Run the tests, on SQLite and on PostgreSQL
	@{ $(COMPILE); } & $(BIN)/python .ci/chromium.py && $(BIN)/python .ci/proxies.py; code=$$?; wait; exit $$code
	@$(TEST) $(BIN)/python .ci/tests.py

check: $(DEVELOPING) ## Check format, lint, types, migrations, the settings for production, and pinned packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && set -ex && \
	$(THROWAWAY) $(BIN)/python manage.py makemigrations --check --dry-run && \
	$(THROWAWAY) $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python .ci/audit.py

bench: $(DEVELOPING) ## Measure the gateway, as ratios taken in one run: make bench ONLY="nginx lone"
	@command -v wrk >/dev/null && PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || \
		{ apt-get update && apt-get install -y wrk nginx-light; } || \
		{ echo "apt-get install wrk nginx-light" >&2; exit 1; }
	@command -v npm >/dev/null || { apt-get update && apt-get install -y nodejs npm; } || true
	@failed=0; $(CLEAN) $(BENCHMARKS) || failed=1; \
	$(CLEAN) $(BIN)/python -m tests.postgresql --durable $(BENCHMARKS) || failed=1; exit $$failed

faults: $(DEVELOPING) ## Break things on purpose, and print a table of what happened: make faults ONLY="lock gone"
	$(BIN)/python .ci/proxies.py
	$(TEST) $(BIN)/python -m tests.faults $(ONLY)

clients: $(DEVELOPING) ## Run the clients and model servers of docs/clients.md: make clients ONLY="Codex llm"
	$(CLEAN) $(BIN)/python -m tests.clients $(ONLY)

format: $(DEVELOPING) ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

migrations: $(DEVELOPING) ## Write the migrations that the models lack, see CONTRIBUTING.md
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && set -e && \
	$(THROWAWAY) $(BIN)/python manage.py makemigrations --no-header

requirements: $(DEVELOPING) ## Pin the newest versions that the .in files allow
	$(LOCK) --upgrade --output-file requirements.txt requirements.in
	$(LOCK) --upgrade --output-file requirements-dev.txt requirements-dev.in

$(ENVIRONMENT): $(if $(wildcard $(BIN)/python),,missing)
	@case "$(VERSION)" in \
	3.1[1-4].*) ;; \
	3.1[5-9].*|3.[2-9][0-9].*) \
		echo "Keyportal is tested with Python 3.11 to 3.14; trying $(VERSION)." >&2 ;; \
	*) echo "Keyportal needs Python 3.11 or newer, and $(PYTHON) is $(or $(VERSION),not there):" \
		"choose another with \`make PYTHON=python3.11 $(MAKECMDGOALS)\`." >&2; exit 1 ;; \
	esac
	@$(HAS_VENV) || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update && apt-get install -y python3-venv && $(HAS_VENV); } || { \
		echo "$(PYTHON) lacks its module venv: install it with \`apt-get install python3-venv\`," \
		"or choose another Python with \`make PYTHON=python3.11 $(MAKECMDGOALS)\`." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@touch $@

$(SERVING): requirements.txt $(ENVIRONMENT)
	@echo "Installing what $< lists into .venv/ ..."
	@$(INSTALL) -r $<
	@touch $@

# One run of pip for both, because it takes long to read its index. Without bytecode of all modules:
# most are never imported.
$(DEVELOPING): requirements-dev.txt requirements.txt $(ENVIRONMENT)
	@echo "Installing what requirements.txt and $< list into .venv/ ..."
	@$(INSTALL) --no-compile -r requirements.txt -r $<
	@touch $(SERVING) $@
