# Needs Go 1.26, and Node 18 or newer with npm for the HTML page.
GO       ?= go
FUZZTIME ?= 2m
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# Stamping by Go itself fails in a checkout that belongs to another user; the
# version comes from git above, where git can tell it.
BUILD  := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
RUN    := $(GO) run -buildvcs=false
PAGE   := reports/page
SOURCE := $(wildcard $(PAGE)/src/* $(PAGE)/*.ts $(PAGE)/*.json $(PAGE)/index.html)

.PHONY: help demo build test race fuzz bench lab served incidents lint check page go-build

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## freeze a small service of its own for real, diagnose it live, write the report
	$(RUN) ./lab/demo -bin bin/freezeframe -out out/demo

build: ## build the page (where npm is) and bin/freezeframe
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory page; \
	else echo "npm is missing (apt-get install npm): building without the HTML page"; fi
	@$(MAKE) --no-print-directory go-build

go-build:
	$(BUILD) -o bin/freezeframe ./cmd/freezeframe

page: $(PAGE)/dist/index.html ## build the HTML page that the binary embeds

$(PAGE)/dist/index.html: $(PAGE)/node_modules/.package-lock.json $(SOURCE)
	cd $(PAGE) && npm run --silent build

$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: apt-get install npm"; exit 1; }
	cd $(PAGE) && npm ci --silent --no-audit --no-fund && touch node_modules/.package-lock.json

# One package at a time: tests that freeze something for real must not be the
# neighbours of tests that watch.
test: page ## run every test, those of the page too; as root nothing is skipped
	cd $(PAGE) && npm test --silent
	$(GO) vet ./...
	$(GO) test -p 1 -timeout 20m ./...

race: ## run the Go tests under the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

fuzz: ## run every fuzz test for FUZZTIME (2m), one after another
	@set -e; for package in $$($(GO) list ./...); do \
		for name in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzzminimizetime 20x -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

bench: build ## measure what sampling costs: allocations, system calls, CPU, memory (root, a quiet machine)
	$(RUN) ./lab/bench -binary bin/freezeframe $(BENCH)

lab: build ## make every fault for real and score the verdicts (root, a quiet machine)
	$(RUN) ./lab/run -bin bin/freezeframe

served: go-build ## stall servers of many kinds, and hold what is said of them against their clients (root, a quiet machine)
	$(RUN) ./lab/served -bin bin/freezeframe $(SERVED)

incidents: ## replay the recorded incidents through the rules
	$(GO) test ./incidents/...

lint: ## gofmt, go vet, staticcheck
	@files=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

check: lint test ## lint and test
