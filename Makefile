# Plain `make` explains itself. What a target needs it installs from apt
# (scripts/need), or fetches in Go's case (scripts/toolchain), and says so.

SHELL := /bin/sh
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# Version control stamps need a checkout that git trusts; a clone owned by
# somebody else is none. The version is set here instead.
export GOFLAGS := -buildvcs=false
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

GO := scripts/go
CLANG := 16
GOLANGCI := v2.12.2
# The packages that take longest are named first: of the two that run at a time,
# neither is then left alone with one of them at the end.
PKG := ./testenv/e2e ./testenv/vm/lane ./...
RUN := .
BENCH := all

.PHONY: help
help: ## explain the targets (this text)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/lvx; the BPF object is in the repository
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/lvx ./cmd/lvx

.PHONY: generate
generate: ## compile bpf/ with the pinned clang and generate the Go side of it
	scripts/need clang-$(CLANG) llvm-strip-$(CLANG) libbpf-dev linux-libc-dev
	$(GO) generate ./...

.PHONY: check
check: ## what needs no root: vet, gofmt, C format, shellcheck, the rules of internal/arch
	scripts/check
	$(GO) test -count=1 ./internal/arch ./docs

.PHONY: format
format: ## gofmt and clang-format everything
	PATH="$$(scripts/toolchain):$$PATH" gofmt -w .
	scripts/need clang-format-$(CLANG)
	find bpf -name '*.[ch]' -exec clang-format-$(CLANG) -i {} +

.PHONY: lint
lint: ## golangci-lint (.golangci.yaml) and dead code; the first time minutes, then seconds
	scripts/lint $(GOLANGCI)

.PHONY: test
test: ## everything: the checks, unit tests, tests in network namespaces; as root
	scripts/test -run '$(RUN)' $(PKG)

.PHONY: race
race: ## the tests of packages with goroutines, with the race detector; as root, five minutes
	scripts/race

.PHONY: bench
bench: ## measure everything against yardsticks, in one run: a quarter of an hour; as root
	scripts/need qemu-system-x86_64 busybox cpio
	$(GO) run ./bench $(BENCH)

.PHONY: bench-quick
bench-quick: ## the same in less than a minute, less certain; as root
	$(GO) run ./bench --quick $(BENCH)

.PHONY: demo
demo: build ## LVS direct routing in XDP on real TCP traffic, in namespaces; as root
	scripts/need ip bird
	bin/lvx demo

.PHONY: deb
deb: ## Debian packages for amd64 and arm64, in dist/
	packaging/build deb

.PHONY: dist
dist: ## packages, archives, what the binaries were made of, and checksums, in dist/
	packaging/build dist

.PHONY: image
image: ## a container image FROM scratch, in dist/; as root
	packaging/build image

.PHONY: clean
clean: ## remove what was built; nothing that a running lvx owns
	rm -rf bin dist
