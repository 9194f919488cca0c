# The only door: everything that is done with this repository is done from here.

SHELL := /bin/bash
CARGO ?= cargo
ARGS ?=
SECONDS_EACH := $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),60)
HOST := $(shell rustc --print host-tuple 2>/dev/null)
# With nextest each journey is a process of its own, with a time limit; without it, cargo's own runner does.
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
TEST := $(if $(NEXTEST),$(CARGO) nextest run --no-fail-fast,$(CARGO) test --no-fail-fast)

.PHONY: help run test lint journey soak fuzz bench release install-test-needs

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds Naru and shows the whole journey on this machine (ARGS=--exit ends it)
	$(CARGO) build --release --package naru
	target/$(HOST)/release/naru quickstart $(ARGS)

test: install-test-needs lint ## Installs what the tests need, then everything that can fail (NARU_TEST_INSTALL=0: installs nothing)
	$(CARGO) build --package naru
	@rm -f target/skipped
	@NARU_SKIPPED="$(CURDIR)/target/skipped" $(TEST) --workspace $(ARGS); code=$$?; \
	[ ! -s target/skipped ] || { echo "Could not run here:"; sort -u target/skipped; }; exit $$code

lint: ## Format, clippy, licences and who may use what
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not here: licences and sources are not checked (cargo install --locked cargo-deny)"; fi

journey: ## One journey with real clients, with what it prints: make journey NAME=collision
	@test -n "$(NAME)" || { echo "which one? make journey NAME=one of:"; ls tests/tests | sed -n 's/\.rs$$/  /p;s/^/  /' | sort -u; exit 2; }
	$(CARGO) build --package naru
	$(CARGO) test --package journeys --test $(NAME) -- --nocapture $(ARGS)

soak: ## The journeys that kill and cut, with other seeds each time: 1 000 kills, and SECONDS= (600)
	bench/soak $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),600)

fuzz: ## Each parser of foreign bytes for SECONDS= (60)
	fuzz/run $(SECONDS_EACH)

bench: ## Naru beside docker-registry, nginx, openssl and dd; writes bench/RESULTS.md
	$(CARGO) build --release --package naru
	bench/run $(ARGS)

release: ## The static binary, and what must be true of it
	$(CARGO) build --release --package naru
	$(TEST) --package journeys --test static_binary
	@ls -l target/$(HOST)/release/naru

install-test-needs:
	@tests/install
