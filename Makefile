# Two commands matter: `make demo` and `make test`. `make` alone lists the rest.
SHELL := /bin/sh
CARGO ?= cargo
ARGS ?=
STORY ?=
BUILT := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# A build that is thrown away needs no incremental state, which would double its size on disk.
ifdef CI
export CARGO_INCREMENTAL ?= 0
endif

.PHONY: help demo test live up bench generate check-tools check-room fmt-check lint unit generated chart demos stories

help:
	@echo 'make demo [ARGS="--scenario oom --merge"]   the whole loop on an embedded world, no cluster needed'
	@echo 'make test                                   everything that must pass'
	@echo 'make live STORY=oom                         one live story on the real bench'
	@echo 'make up                                     a live world to play with'
	@echo 'make bench [ARGS="--only webhook"]          figures, as a table and as JSON'
	@echo 'make generate                               CRDs, chart copy, CLI docs'

# Building shows its own progress on standard error; the second line adds nothing to the story.
demo: check-tools
	@$(CARGO) build -p amend-cli --bin amend
	@$(CARGO) run --quiet -p amend-cli --bin amend -- demo $(ARGS)

# Cheapest first; the last lines are the test runner's own.
test: check-tools check-room fmt-check lint generated unit chart demos stories

check-tools:
	@tests/env/tools cargo git cc

check-room:
	@tests/env/room

fmt-check:
	$(CARGO) fmt --all --check

# Every step takes the whole workspace and picks tests by name: the features of shared crates stay the same from step to
# step, so nothing is compiled twice. Tests that need the bench or minutes are `test = false` in tests/Cargo.toml.
lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --test '*' -- -D warnings

unit:
	$(CARGO) test --workspace

# Into a temporary file first: what is interrupted leaves the old page.
generate:
	$(CARGO) build --workspace --bin crdgen --bin amend
	$(BUILT)/debug/crdgen crds/yaml charts/amend/files/crds
	$(BUILT)/debug/amend docs > $(BUILT)/cli.md
	mv $(BUILT)/cli.md docs/cli.md

# Regenerates into a scratch folder and compares, so that a check never changes the tree.
generated:
	@tests/env/generated

chart:
	@tests/env/tools go
	tests/env/build helm
	$(CARGO) test --workspace --test chart

demos:
	$(CARGO) test --workspace --test demo
	$(CARGO) test --workspace --test bad_input --test evidence

stories:
	@tests/env/tools go cc
	tests/env/build
	$(CARGO) test --workspace --test bench --test forge_contract --test admission
	# Stories mostly wait: more of them than cores keep the wall time down.
	$(CARGO) test --workspace --test live -- --test-threads 3

live:
	@tests/env/tools go cc
	tests/env/build
	$(CARGO) test --workspace --test live -- --test-threads 3 --nocapture $(STORY)

up:
	@tests/env/tools go cc
	tests/env/build
	$(CARGO) build --workspace --bin amend --bin up
	$(BUILT)/debug/up

# One figure alone: make bench ARGS="--only webhook"
bench:
	$(CARGO) build --release --workspace --bin amend --bin figures
	$(BUILT)/release/figures --json $(BUILT)/figures.json $(ARGS)
