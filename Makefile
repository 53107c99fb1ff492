# weft: `make` prints what there is. Needs Go >= 1.26 and GNU make; the tests
# and the demo also need root, because they make network namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/weftnet/weft/pkg/version.Version=$(VERSION)
# Where build puts the programs; tools/image and tools/packages name others.
PROGRAMS ?= bin
TIMEOUT ?= 15m
FUZZTIME ?= 10s
DEMO_FLAGS ?=
BENCH ?= .
PKG ?= ./...
ROUNDS ?= 20
N ?= 200
PEER_BIN ?= /opt/cni/bin
STEPS ?= 1000000
MINUTES ?= 5
SHOTS ?= bin/screenshots
RELIABILITY = WEFT_E2E_ROUNDS=$(ROUNDS) go test -count=1 -v -timeout $(TIMEOUT) \
  -run '^Test(Disturbances|EngineDisturbances|Fight|RestartUnderTraffic|EndsPromptly|UnderlayIsFollowed|StoreFaults|Backends)$$' ./test/e2e
LINT := bin/golangci-lint
# Packages whose TestReference holds a part of a page.
REFERENCES := ./cmd/weftd ./cmd/weftctl ./subnet ./subnet/kube ./backend/vxlan ./pkg/metrics
IMAGE ?= weftnet/weft:edge
ARCHES ?= amd64,arm64
HOST_ARCH = $(shell go env GOARCH)
# The modules of ours; the others are kept apart so that their weight never
# reaches go.mod.
MODULES := . tools tools/packages test/kube test/cluster test/cluster/coredns

# Static binaries; and the tests run what is shipped. race is the exception.
export CGO_ENABLED := 0

E2E_KUBE := bin/e2e-kube
# Debian's packages of what runs containers, unpacked and not installed.
E2E_DEBS := containerd runc containernetworking-plugins
E2E_TOOLS := busybox nftables conntrack util-linux iproute2 curl wget netcat-openbsd bind9-dnsutils
E2E_FLAGS ?=
DEBIAN := bin/debian.tar

.PHONY: help reference build image packages packages-test e2e-kube e2e-kube-build test test-kube test-tools verify race fuzz e2e soak chaos demo screenshots bench bench-compare bench-netlink bench-go stats clean needs fmt-check tidy-check

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## static bin/weftd, bin/weft and bin/weftctl, version stamped
	@go build -trimpath -ldflags '$(LDFLAGS)' -o '$(PROGRAMS)/' ./cmd/...
	@echo "built $(PROGRAMS)/weftd $(PROGRAMS)/weft $(PROGRAMS)/weftctl ($(VERSION))"

image: ## bin/weft-image.tar, an OCI archive for amd64 and arm64, without a container engine
	@cd tools && go run ./image --version '$(VERSION)' --name '$(IMAGE)' --arches '$(ARCHES)'

packages: ## bin/packages: .deb and .rpm for amd64 and arm64, with sizes and digests
	@cd tools/packages && go run . --version '$(VERSION)' --arches '$(ARCHES)'

packages-test: $(DEBIAN) ## two builds of the packages are the same bytes; they are installed, upgraded under traffic and removed, with systemd
	@rm -rf bin/again bin/packages bin/packages-again bin/packages-before && git worktree prune && git worktree add -q --detach bin/again HEAD
	@$(MAKE) packages; (cd bin/again/tools/packages && \
	  go run . --version '$(VERSION)' --arches '$(ARCHES)' --out '$(CURDIR)/bin/packages-again' >/dev/null); bad=$$?; \
	  git worktree remove --force bin/again; exit $$bad
	@for f in bin/packages/*.deb bin/packages/*.rpm; do cmp "$$f" "bin/packages-again/$${f##*/}" || { \
	  echo "the second build is of HEAD: is everything committed?"; exit 1; }; done; \
	  echo "two builds of $(VERSION) in two directories are alike"
	@$(MAKE) build; for p in weftd weftctl weft; do cmp bin/$$p bin/packages/linux_$(HOST_ARCH)/$$p; done; \
	  echo "and the programs in them are those of make build"
	@cd tools/packages && go run . --version v0.0.0 --arches '$(HOST_ARCH)' --out ../../bin/packages-before >/dev/null
	@WEFT_DEBIAN='$(CURDIR)/$(DEBIAN)' WEFT_DEB_BEFORE="$$(ls -d $(CURDIR)/bin/packages-before/*.deb)" \
	  WEFT_DEB="$$(ls -d $(CURDIR)/bin/packages/*_$(HOST_ARCH).deb)" \
	  WEFT_RPM_BEFORE="$$(ls -d $(CURDIR)/bin/packages-before/*.rpm)" \
	  WEFT_RPM="$$(ls -d $(CURDIR)/bin/packages/*.$$(uname -m).rpm)" \
	  go test -count=1 -v -timeout $(TIMEOUT) -run '^Test(Deb|Rpm)' ./test/e2e

# Kept packed, and each test unpacks it for itself.
$(DEBIAN):
	@command -v debootstrap >/dev/null || { echo "installing debootstrap"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q debootstrap; } >/dev/null; }
	@echo "making a Debian tree (once; some minutes)"; mkdir -p bin; rm -rf --one-file-system bin/debian
	@debootstrap --variant=minbase --include=systemd,systemd-sysv,iproute2,rpm bookworm bin/debian >bin/debian.log || { \
	  tail bin/debian.log; exit 1; }
	@rm -rf bin/debian/var/cache/apt/archives/*.deb bin/debian/var/lib/apt/lists/*
	@tar -C bin/debian -cf $@.new . && mv $@.new $@ && rm -rf --one-file-system bin/debian

test: needs ## all tests, also those that need root (PKG=./subnet/... for a part)
	@{ go test -json -timeout $(TIMEOUT) $(PKG) || bad=1; $(if $(filter ./...,$(PKG)),$(KUBE_TEST) || bad=1; $(TOOLS_TEST) || bad=1;) \
	  exit $${bad:-0}; } | go run ./test/report

# verify vets it: here the analysis of all of Kubernetes would cost minutes.
# Its cache doesn't see that a manifest has changed, which is in another module.
KUBE_TEST = (cd test/kube && go test -count=1 -vet=off -json -timeout $(TIMEOUT) ./...)

test-kube: ## only the tests against a real kube-apiserver (a cold build takes minutes)
	@$(KUBE_TEST) | go run ./test/report

TOOLS_TEST = { (cd tools && go test -json -timeout $(TIMEOUT) ./...) || bad=1; \
  (cd tools/packages && go test -json -timeout $(TIMEOUT) ./...) || bad=1; [ -z "$$bad" ]; }

test-tools: ## only the tests of what builds the image
	@$(TOOLS_TEST) | go run ./test/report

# Two packages of test/cluster only link Kubernetes' own programs and tests: to
# analyse all of that takes minutes and gigabytes.
verify: fmt-check tidy-check $(LINT) ## gofmt, go vet, golangci-lint, go mod tidy, import and size rules, the generated parts of pages
	@echo "go vet"; go vet ./...
	@echo "golangci-lint"; $(LINT) run ./...
	@echo "golangci-lint, with go vet, in test/kube"; cd test/kube && ../../$(LINT) run ./...
	@echo "golangci-lint, with go vet, in test/cluster"; cd test/cluster && ../../$(LINT) run \
	  $$(go list -f '{{.Dir}}' ./... | grep -v -e /hyperkube$$ -e /signetwork$$)
	@echo "golangci-lint, with go vet, in tools"; cd tools && ../$(LINT) run ./...
	@echo "golangci-lint, with go vet, in tools/packages"; cd tools/packages && ../../$(LINT) run ./...
	@echo "import and size rules"; go test -count=1 ./test/arch/...
	@echo "pages beside the code"; go test -count=1 -run '^TestReference$$' $(REFERENCES)

reference: ## write what pages hold of the code's own tables: flags, keys, annotations, metrics
	@WEFT_WRITE_REFERENCE=1 go test -count=1 -run '^TestReference$$' $(REFERENCES)

race: needs ## all tests under the race detector (needs a C compiler, installs gcc where it is missing)
	@command -v $${CC:-cc} >/dev/null || { echo "installing gcc: the race detector needs a C compiler"; \
	  apt-get install -y -q gcc libc6-dev >/dev/null; }
	@CGO_ENABLED=1 go test -race -json -timeout 30m $(PKG) | go run ./test/report

fuzz: ## each fuzz target for FUZZTIME=10s
	@grep -rHoE --include='*_test.go' '^func Fuzz\w+' . | sort | while IFS=: read -r file func; do \
	  name=$${func#func }; dir=$$(dirname "$$file"); echo "$$dir $$name"; \
	  go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir"; done

e2e: needs ## every disturbance 20 times, with the table of repair times (ROUNDS=20); each backend's life (BACKEND=host-gw for one alone)
	@$(if $(BACKEND),WEFT_E2E_ROUNDS=$(ROUNDS) go test -count=1 -v -timeout $(TIMEOUT) -run '^TestBackends$$/^$(BACKEND)$$' ./test/e2e,$(RELIABILITY))

soak: ROUNDS = 50
soak: needs ## the same 50 times, 50 restarts of each kind, a million steps with random kernel errors, CNI plugins killed, and eight at once for five minutes
	@$(RELIABILITY)
	@WEFT_CNI_ROUNDS=1000 WEFT_CNI_SECONDS=300 go test -count=1 -v -timeout 60m -run '^Test(KilledAtEveryCall|HeirKeepsAll|EveryCallFails|EightAtOnce)$$' \
	  ./pkg/cniplugin
	@WEFT_STEPS=$(STEPS) go test -count=1 -v -timeout 60m -run '^TestOrdeal$$' ./pkg/dataplane/reconcile

chaos: needs ## six nodes, everything at once for MINUTES=5; SEED= repeats a run, PEERS=2000 has so many more leases
	@WEFT_CHAOS_SEED=$(SEED) WEFT_CHAOS_MINUTES=$(MINUTES) WEFT_CHAOS_PEERS=$(PEERS) go test -count=1 -v -timeout 60m -run '^TestChaos$$' ./test/e2e

e2e-kube: needs e2e-kube-build ## a real Kubernetes of three nodes, as root: every property of it, and sig-network's own cases
	@$(E2E_KUBE)/e2e-kube $(E2E_FLAGS)

# Without -trimpath, so that the packages that the other tests have compiled
# already are taken from the cache.
e2e-kube-build: $(E2E_KUBE)/debian
	@for p in busybox nft conntrack nsenter ip curl wget nc dig; do command -v $$p >/dev/null || missing=1; done; \
	[ -z "$$missing" ] || { echo "installing $(E2E_TOOLS)"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	  $(E2E_TOOLS); } >/dev/null; }
	@echo "building Kubernetes, CoreDNS and the tests (once; cold it takes minutes)"
	@cd test/cluster && go build -ldflags '-s -w' -o ../../$(E2E_KUBE)/ ./cmd/... \
	  k8s.io/kubernetes/test/images/agnhost k8s.io/kubernetes/test/images/regression-issue-74839 \
	  github.com/onsi/ginkgo/v2/ginkgo
	@cd test/cluster && go test -vet=off -ldflags '-s -w' -c -o ../../$(E2E_KUBE)/signetwork.test ./signetwork
	@cd test/cluster/coredns && go build -ldflags '-s -w' -o ../../../$(E2E_KUBE)/ .
	@cp -f "$$(cd test/cluster && go list -m -f '{{.Dir}}' k8s.io/kubernetes)"/test/images/agnhost/porter/localhost.* $(E2E_KUBE)/
	@for p in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do \
	  ln -sf hyperkube $(E2E_KUBE)/$$p; done
	@cd tools && go run ./image --version '$(VERSION)' --name weftnet/weft:edge --arches "$$(go env GOARCH)" \
	  --bin ../$(E2E_KUBE)/weft --out ../$(E2E_KUBE)/weft-image.tar

$(E2E_KUBE)/debian:
	@echo "fetching $(E2E_DEBS)"; mkdir -p $@.new; cd $@.new; \
	apt-get update -q >/dev/null; apt-get download -q $(E2E_DEBS) >/dev/null; \
	for d in *.deb; do dpkg-deb -x "$$d" root; done; \
	cp root/usr/bin/containerd root/usr/bin/containerd-shim-runc-v2 root/usr/bin/ctr root/usr/sbin/runc \
	  root/usr/lib/cni/loopback root/usr/lib/cni/portmap ..
	@rm -rf $@.new; touch $@

demo: build ## three nodes on this machine, as root; DEMO_FLAGS=--keep leaves them running
	@bin/weftctl demo $(DEMO_FLAGS)

screenshots: ## bin/screenshots: the status page in Chromium at 5 and 500 peers, light and dark, and used by keys alone (SHOTS=dir for another place)
	@command -v chromium >/dev/null || { echo "installing chromium"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium; } >/dev/null; }
	@go run ./test/screenshots '$(SHOTS)'

bench: needs ## the daemon as a whole: bin/bench.md and .json (PEER=daemon PEER_ARGS=..., BENCH_ONLY=join,path)
	@mkdir -p bin; PEER='$(PEER)' PEER_ARGS='$(PEER_ARGS)' BASE_DAEMON='$(BASE_DAEMON)' WEFT_BENCH_ONLY='$(BENCH_ONLY)' \
	  WEFT_BENCH_SIZES='$(BENCH_SIZES)' WEFT_BENCH_ROUNDS='$(BENCH_ROUNDS)' WEFT_BENCH_OUT='$(CURDIR)/bin/bench' \
	  go test -count=1 -run '^$$' -bench '^BenchmarkReport$$' -benchtime 1x -timeout 60m ./test/bench && cat bin/bench.md

bench-compare: ## the same beside the daemon of another revision, in turns (BASE=revision)
	@[ -n "$(BASE)" ] || { echo "name a revision: make bench-compare BASE=HEAD~1"; exit 2; }
	@rm -rf bin/base && git worktree prune && git worktree add -q --detach bin/base '$(BASE)' && \
	  { (cd bin/base && go build -trimpath -ldflags '-s -w' -o ../weftd-base ./cmd/weftd); bad=$$?; \
	    git worktree remove --force bin/base; exit $$bad; }
	@$(MAKE) bench BASE_DAEMON='$(CURDIR)/bin/weftd-base'

bench-netlink: ## what writing 30,000 entries costs at the least: one by one, batched, and by ip -batch
	@go test -count=1 -run '^$$' -bench '^BenchmarkFloor' -benchtime 3x ./pkg/dataplane/linux

bench-go: ## all benchmarks of parts, with allocations (BENCH=regexp for some)
	@go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 30m \
	  $$(grep -rlE --include='*_test.go' '^func Benchmark' . | grep -v -e '^./test/kube/' -e '^./test/bench/' | xargs -r -n1 dirname | sort -u)
	@cd test/kube && go test -vet=off -run '^$$' -bench '$(BENCH)' -benchmem -timeout 30m ./...

bench-cni: ## what a pod's start waits for: weft beside the floor (PEER_CONF=conflist PEER_BIN=dir for others, N=200)
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/cni/ ./cmd/weft ./test/cnibench ./test/cnibench/floor
	@BIN=bin/cni N='$(N)' PEER_CONF='$(PEER_CONF)' PEER_BIN='$(PEER_BIN)' bin/cni/cnibench

stats: ## function length, test/source lines, packages and what each imports
	@go run ./test/arch/stats

clean: ## remove what the targets above made
	@rm -rf bin

needs:
	@echo "needs: $$(go version | cut -d' ' -f3)"; \
	for p in iptables-nft iptables-legacy nft /usr/lib/cni/portmap; do command -v $$p >/dev/null || missing=1; done; \
	[ -z "$$missing" ] || { echo "installing iptables, nft and the CNI project's plugins: tests need them"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q iptables nftables \
	  containernetworking-plugins; } >/dev/null || echo "they can't be installed: tests will fail or be skipped"; }; \
	[ "$$(id -u)" = 0 ] || echo "needs: not root, so tests that need network namespaces will be skipped or fail"

fmt-check:
	@echo "gofmt"; bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not gofmt-ed (gofmt -w mends it):"; echo "$$bad"; exit 1; }

tidy-check:
	@echo "go mod tidy"; for m in $(MODULES); do (cd $$m && go mod tidy -diff) || { \
	  echo "$$m/go.mod is not tidy: run 'go mod tidy' in $$m"; exit 1; }; done

# Built from a module of its own, so that the linter never weighs on go.mod.
$(LINT): tools/go.mod tools/go.sum
	@echo "building golangci-lint (once; some minutes)"
	@cd tools && go build -o ../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
