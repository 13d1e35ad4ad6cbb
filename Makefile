# Every verb sets itself up: a machine with Python 3.11+ (with its headers and venv module), g++ and
# make is enough. A second run of any of them starts at once; a change in native/ rebuilds.

PYTHON ?= python3
MODEL ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
# All that computes, run again under every lower instruction set; tokenizer, hub and docs do not.
LOWER_ISA_TESTS ?= tests/kernels tests/models tests/engine tests/server tests/cli tests/test_llm.py
NATIVE := $(wildcard CMakeLists.txt native/*.h native/*.cpp native/*/*.h native/*/*.cpp)

# The tools that build the package, kept in the environment so that rebuilding is incremental.
BUILD_TOOLS := "scikit-build-core>=0.10" "nanobind>=2.4" "cmake>=3.22" "ninja>=1.11"
INSTALL := $(PIP) install --no-build-isolation --editable
# Once the developer's environment is there, it serves the user's verbs too.
READY = $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.run)

.PHONY: help demo serve test check fix bench soak sdk contract crash oracle fuzz llama vllm clean
.DEFAULT_GOAL := help

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ready  ## fetch the default model, serve it, ask it one question through the mistralai SDK
	@$(BIN)/python examples/demo.py $(MODEL)

serve: ready  ## the same server, kept running
	@exec $(BIN)/cierzo serve $(MODEL)

test: $(VENV)/.dev  ## the test suite, then all that computes under each lower instruction set
	@echo "→ all tests under the best instruction set"
	@$(BIN)/python -m pytest
	@set -e; for isa in $$($(BIN)/python -m tests.lower_isas); do \
	  echo "→ $(LOWER_ISA_TESTS) under CIERZO_ISA=$$isa"; \
	  CIERZO_ISA=$$isa $(BIN)/python -m pytest $(LOWER_ISA_TESTS); \
	done

check: $(VENV)/.dev  ## lint, format, types, C++ format; the build itself has C++ warnings as errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests examples benchmarks
	$(BIN)/clang-format --dry-run -Werror $(filter native/%,$(NATIVE))
	$(BIN)/python -m pytest tests/test_imports.py tests/test_size.py tests/test_docs.py tests/test_readme.py \
	  tests/cli/test_cli.py

fix: $(VENV)/.dev  ## format everything, and remake the pages that are made from the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter native/%,$(NATIVE))
	$(BIN)/python -m tests.made_pages

bench: BENCH = fast
bench: $(VENV)/.dev $(if $(LLAMA_BENCH),,.venv-bench/.ready) $(if $(VLLM),.venv-vllm/.ready)  ## our speed beside our rivals' (BENCH=all: big shapes too), and the README's table
	@$(BIN)/python -m benchmarks.compare --set $(BENCH)
	@$(BIN)/python -m benchmarks.readme_table

sdk: $(VENV)/.dev  ## the real clients over a socket, each SDK version in an environment of its own
	@$(BIN)/python tests/sdk/run.py

contract: EXAMPLES = 300
contract: SEED = 0
contract: $(VENV)/.dev  ## every operation of /openapi.json, asked often, sound and broken
	@$(BIN)/python -m tests.contract --examples $(EXAMPLES) --seed $(SEED)

crash: $(VENV)/.dev  ## kills, full disks, lost databases, the largest files, on real servers (SCENARIOS=…: some)
	@$(BIN)/python -m tests.crash $(SCENARIOS)

oracle: $(VENV)/.dev .venv-oracle/.ready  ## remake the gold logits live with torch and transformers, compare
	@$(BIN)/python -m tests.oracle.make_gold --oracle .venv-oracle/bin/python --check
	@$(BIN)/python -m tests.oracle.compare

fuzz: SECONDS = 60
fuzz: SEED = 0
fuzz: $(VENV)/.dev  ## loaders and native entry points under sanitizers and random damage, bounded
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

soak: SECONDS = 1800
soak: $(VENV)/.dev  ## a server under all kinds of clients at once, for half an hour
	@$(BIN)/python -m tests.soak --seconds $(SECONDS) $(if $(MODEL),--model $(MODEL))

llama: $(VENV)/.dev  ## a real llama.cpp server as upstream (LLAMA_SERVER=path/to/llama-server)
	@LLAMA_SERVER=$(LLAMA_SERVER) $(BIN)/python -m tests.llama_cpp

vllm: $(VENV)/.dev .venv-vllm/.gguf  ## a real vLLM server as upstream, beside the same model here
	@$(BIN)/python -m tests.vllm

clean:  ## remove the environments and build folders (not the models)
	rm -rf .venv .venv-* build

.PHONY: ready
ready: $(READY)
	@:

$(VENV)/.tools: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Cierzo needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1):" \
	    "run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || { \
	  echo "Cierzo builds an extension, and $(PYTHON) has no Python.h:" \
	    "install its headers (on Debian: apt install python3-dev)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Cierzo sets up an environment of its own, and $(PYTHON) cannot make one:" \
	    "install its venv module (on Debian: apt install python3-venv)" >&2; exit 1; }
	@command -v $(CXX) >/dev/null || { \
	  echo "Cierzo builds C++ and there is no $(CXX): install g++ (on Debian: apt install g++)" >&2; exit 1; }
	@echo "→ setting up $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install $(BUILD_TOOLS)
	@touch $@

$(VENV)/.run: $(VENV)/.tools pyproject.toml $(NATIVE)
	@echo "→ building the kernels and installing Cierzo (a few minutes the first time)"
	@$(INSTALL) ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.tools pyproject.toml $(NATIVE)
	@echo "→ building the kernels, warnings as errors, and installing Cierzo with its test tools"
	@$(INSTALL) ".[dev]" --config-settings cmake.define.CIERZO_WERROR=ON
	@touch $@

.venv-oracle/.ready:
	@echo "→ installing torch and transformers in .venv-oracle (gigabytes, once)"
	@$(PYTHON) -m venv .venv-oracle
	@.venv-oracle/bin/python -m pip --disable-pip-version-check --no-input -qq install \
	  torch==2.13.0 transformers==5.23.0 safetensors numpy gguf accelerate
	@touch $@

.venv-bench/.ready: benchmarks/rivals/llama_cpp.txt
	@echo "→ building llama.cpp for comparison in .venv-bench (several minutes, once)"
	@$(PYTHON) -m venv .venv-bench
	@CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS='-include $(CURDIR)/benchmarks/rivals/amx_barrier.h'" \
	  .venv-bench/bin/python -m pip --disable-pip-version-check --no-input -qq install \
	  --no-binary llama-cpp-python -r benchmarks/rivals/llama_cpp.txt
	@touch $@

# The same for lower instruction sets: what llama.cpp is on a processor without the higher ones.
LLAMA_avx512 := -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_BF16=ON
LLAMA_avx2 :=
LLAMA_portable := -DGGML_SSE42=OFF -DGGML_AVX=OFF -DGGML_AVX2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_BMI2=OFF
.venv-bench-%/.ready: benchmarks/rivals/llama_cpp.txt
	@echo "→ building llama.cpp for $* in .venv-bench-$* (several minutes, once)"
	@$(PYTHON) -m venv .venv-bench-$*
	@CMAKE_ARGS="-DGGML_NATIVE=OFF $(LLAMA_$*) -DLLAVA_BUILD=OFF" \
	  .venv-bench-$*/bin/python -m pip --disable-pip-version-check --no-input -qq install \
	  --no-binary llama-cpp-python --no-cache-dir -r benchmarks/rivals/llama_cpp.txt
	@touch $@

# What transformers wants for reading GGUF files.
.venv-vllm/.gguf: .venv-vllm/.ready
	@.venv-vllm/bin/python -m pip --disable-pip-version-check --no-input -qq install gguf accelerate
	@touch $@

# The registry's torchvision and its kin do not fit vLLM's torch, and it does without them.
.venv-vllm/.ready: benchmarks/rivals/vllm.txt
	@echo "→ installing vLLM for CPUs in .venv-vllm (gigabytes, once)"
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip --disable-pip-version-check --no-input -qq install -r benchmarks/rivals/vllm.txt
	@.venv-vllm/bin/python -m pip --no-input -qq uninstall -y torchvision torchaudio torchcodec
	@touch $@
