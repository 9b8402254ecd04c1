# Needs Go 1.26, and Node 18 or newer with npm for the HTML page.
GO       ?= go
FUZZTIME ?= 2m
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT   := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
PACKAGES ?= out/packages
VMRUN    ?= core.sh

# Stamping by Go itself fails in a checkout that belongs to another user; the
# version comes from git above, where git can tell it.
BUILD  := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)"
RUN    := $(GO) run -buildvcs=false
TOOL   := $(GO) tool -modfile=tools/go.mod
PAGE   := reports/page
SOURCE := $(wildcard $(PAGE)/src/* $(PAGE)/*.ts $(PAGE)/*.json $(PAGE)/index.html)

.PHONY: help demo build test race fuzz bench lab served endure vm vm-service incidents lint check page go-build man packages packages-of-page

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

packages: page ## deb and rpm for amd64 and arm64, in out/packages
	@$(MAKE) --no-print-directory packages-of-page

# The page as it is, or none.
packages-of-page:
	@mkdir -p $(PACKAGES)
	@for arch in amd64 arm64; do GOARCH=$$arch $(BUILD) -o $(PACKAGES)/stage/$$arch/freezeframe ./cmd/freezeframe || exit 1; done
	@GO="$(GO)" systemd/package.sh $(PACKAGES)

man: go-build ## the manual pages and the shell completion, in out/manual; what man complains of is an error
	@rm -rf out/manual && bin/freezeframe manual out/manual
	@if command -v man >/dev/null; then for page in out/manual/man?/*; do \
		said=$$(LC_ALL=C.UTF-8 MANROFFSEQ= MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z $$page 2>&1 >/dev/null); \
		[ -z "$$said" ] || { echo "$$page: $$said"; exit 1; }; done; \
	else echo "man is missing (apt-get install man-db): the pages are not checked"; fi

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

endure: go-build ## the daemon beside a broken disk, exhausted memory, crowds, its own death (root); ENDURE='-for 20s' or '-soak 1h'
	$(RUN) ./lab/endure -bin bin/freezeframe $(ENDURE)

vm: build ## boot a Debian machine (QEMU, no KVM needed), check and score a few faults in it; VM= has flags of lab/vm, VMRUN=units.sh faults of units
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w" -o bin/labrun ./lab/run
	$(RUN) ./lab/vm -steady -in bin/freezeframe -in bin/labrun -in lab/vm/core.sh -in lab/vm/units.sh -out out/vm -limit 20m -boot 5m $(VM) -run $(VMRUN)

# The newer package is the same one with another number.
vm-service: packages ## install the package in a Debian machine (QEMU) and hold the service against its promises; SERVICE= has flags of lab/service
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w" -o bin/labservice ./lab/service
	@rm -rf $(PACKAGES)/next && mkdir -p $(PACKAGES)/next && cp -r $(PACKAGES)/stage $(PACKAGES)/next
	@GO="$(GO)" PACKAGE_VERSION=999 systemd/package.sh $(PACKAGES)/next >/dev/null
	bin/labservice -deb $(PACKAGES)/freezeframe_*_amd64.deb -next $(PACKAGES)/next/freezeframe_*_amd64.deb -out out/vm-service $(SERVICE)

incidents: ## replay the recorded incidents through the rules
	$(GO) test ./incidents/...

lint: ## gofmt, go vet, staticcheck
	@files=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

check: lint test ## lint and test
