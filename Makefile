# make run    build and show the flows of this host
# make test   everything that must hold
# make wheel  dist/*.whl, with the compiled kernel programs
# make image  dist/image-ARCH, an OCI image (ARCH=amd64 or arm64); make images: dist/image, of both
# make test-kernels   that it holds on Debian's kernels from 5.10 to the newest
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OBJECT := exporter/capture/flow.bpf.o
SOURCE := exporter/capture/flow.bpf.c
SOCKETS := exporter/capture/socket.bpf.o
BPF_SOURCES := $(shell find bpf -name '*.[ch]')

.PHONY: setup run test test-kernels test-setup lint format abi proto bench docs dashboards wheel image images clean

setup: $(VENV)/.runtime $(OBJECT) $(SOURCE) $(SOCKETS)

run: setup
	$(BIN)/flow-exporter run $(ARGS)

# Beside the running kernel, Debian's 6.1 in QEMU; TEST_KERNELS=none leaves it out.
test: export TEST_KERNELS ?= 6.1
test: test-setup lint
	@[ "$$TEST_KERNELS" = none ] || tools/setup-kernels.sh
	$(BIN)/pytest $(ARGS)

# Each is booted in QEMU, one after the other; TEST_KERNELS=6.1,6.12 chooses.
test-kernels: export TEST_KERNELS ?= all
test-kernels: test-setup
	@tools/setup-kernels.sh
	$(BIN)/pytest tests/kernels $(ARGS)

test-setup: setup $(VENV)/.test
	@tools/setup-tests.sh

lint: setup $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(BPF_SOURCES)
	$(BIN)/python -m exporter.abi.generate --check $(OBJECT)

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(BPF_SOURCES)

abi: $(VENV)/.test $(OBJECT)
	$(BIN)/python -m exporter.abi.generate $(OBJECT)

proto: $(VENV)/.test
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=exporter/_pb --pyi_out=exporter/_pb proto/flow.proto proto/cel_checked.proto proto/kube_cache.proto proto/observe.proto

docs: $(VENV)/.test
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/chart.py
	$(BIN)/python -m benchmarks.cluster --write docs/operations/sizing.md

# Grafana's boards of the chart.
dashboards: $(VENV)/.test
	$(BIN)/python -m dashboards

bench: test-setup
	$(BIN)/python -m benchmarks $(ARGS)

wheel: setup
	$(BIN)/pip install --quiet --constraint constraints.txt 'setuptools>=77'
	tools/wheel.sh $(BIN)/python dist

image: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[image]'
	tools/image.sh $(BIN)/python dist $(ARCH)

images:
	$(MAKE) --no-print-directory image ARCH=amd64
	$(MAKE) --no-print-directory image ARCH=arm64
	$(BIN)/python tools/image/join.py dist/image dist/image-amd64 dist/image-arm64

$(VENV)/.runtime: pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh $(PYTHON) $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,lint,kernels]'
	@touch $@

$(OBJECT): $(BPF_SOURCES) bpf/Makefile | $(VENV)/.runtime
	$(MAKE) --no-print-directory -C bpf OBJECT=$(abspath $@)

$(SOCKETS): $(BPF_SOURCES) bpf/Makefile | $(VENV)/.runtime
	$(MAKE) --no-print-directory -C bpf OBJECT=$(abspath $@) SOURCE=socket.bpf.c

# What BCC compiles where the object cannot be loaded: the sources in one file.
$(SOURCE): $(BPF_SOURCES) exporter/ebpf/bcc/source.py | $(VENV)/.runtime
	$(BIN)/python -m exporter.ebpf.bcc.source bpf/flow.bpf.c $@

clean:
	rm -rf $(VENV) $(OBJECT) $(SOURCE) $(SOCKETS) build dist *.egg-info
