# `make demo` and `make test` need nothing but python3 (3.10 to 3.13), pip and GCC 11 or Clang 14: they make the venv first.
PYTHON ?= python3
VENV ?= .venv
# Installed first, so that nothing below chooses another build of torch. 2.13.0 is a small CPU build where one is on offer.
TORCH ?= torch==2.13.0
# For tests only, in a folder of its own (tests/conftest.py finds it), without its dependencies: a torchvision built for
# another torch must be harmless too. In .venv it would break every `from transformers import ...` outside of avflow.
TORCHVISION ?= torchvision==0.28.0
PYTEST_ARGS ?=
# Processes that share the tests; 0: none but pytest's own, for --pdb.
TEST_JOBS ?= 2

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
CSRC = $(shell find csrc examples tests/embedding tools/release -name '*.cpp' -o -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')
# Of all fuzzers of tests/fuzz together. Failures are kept in .hypothesis/ and tried first in the next run.
FUZZ_MINUTES ?= 60

.PHONY: demo test test-vllm test-vllm-full fuzz sanitize lint format docs ext wheel release aarch64 bench clean

demo: ext
	$(BIN)/avflow demo

test: lint
	$(BIN)/pytest -n $(TEST_JOBS) --dist worksteal $(PYTEST_ARGS)

# vLLM has an environment of its own, of 4 GB: what it pins is not what avflow takes.
VENV_VLLM ?= $(VENV)-vllm
PYTEST_VLLM = OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/python -m pytest -n 2 --dist worksteal --timeout=900
# Model Runner V2's part, whose kernels are interpreted: a few prompts of every kind.
V2_TESTS = $(addprefix tests/serving/test_served_,tokens.py counts.py before.py half.py v2.py builders.py)
V2_CHOSEN = -k "not single and not more_requests and not random_requests and not (one_token and not early) \
	and not (equal and (half or once))"
test-vllm: ext $(VENV_VLLM)/.installed
	$(PYTEST_VLLM) tests/serving $(PYTEST_ARGS)
	VLLM_USE_V2_MODEL_RUNNER=1 AVFLOW_TEST_PROMPTS=12 $(PYTEST_VLLM) $(V2_TESTS) $(V2_CHOSEN) $(PYTEST_ARGS)

# Everything in both runners, and engines compiled by torch.compile, of which each takes minutes: an hour.
COMPILED = AVFLOW_TEST_ENGINE='{"enforce_eager": false}' AVFLOW_TEST_PROMPTS=12
test-vllm-full: ext $(VENV_VLLM)/.installed
	$(PYTEST_VLLM) tests/serving $(PYTEST_ARGS)
	VLLM_USE_V2_MODEL_RUNNER=1 $(PYTEST_VLLM) tests/serving $(PYTEST_ARGS)
	$(COMPILED) $(PYTEST_VLLM) tests/serving/test_served_tokens.py -k "two and (batch or chunks)" $(PYTEST_ARGS)
	VLLM_USE_V2_MODEL_RUNNER=1 $(COMPILED) $(PYTEST_VLLM) tests/serving/test_served_tokens.py -k "two and batch" \
		$(PYTEST_ARGS)

$(VENV_VLLM)/.installed: tests/serving/setup.sh tests/serving/requirements.txt
	TORCH="$(TORCH)" tests/serving/setup.sh $(VENV_VLLM) $(BIN)/python

fuzz: $(VENV)/.dev ext
	FUZZ_MINUTES=$(FUZZ_MINUTES) $(BIN)/pytest tests/fuzz --timeout=0 $(PYTEST_ARGS)

# libavflow under ThreadSanitizer, AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/.dev ext
	AVFLOW_SANITIZE=1 $(BIN)/pytest tests/embedding/test_sanitizers.py $(PYTEST_ARGS)

lint: $(VENV)/.dev ext
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CSRC)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

# The site: pages and API reference, in build/docs/index.html. A warning is an error.
docs: $(VENV)/.dev ext
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

# Compiles what has changed into avflow_ext/; under a second when nothing has.
ext: $(VENV)/.installed
	$(BIN)/python setup.py --quiet build_ext --inplace

wheel: $(VENV)/.installed
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

# All that goes to PyPI, in dist/, and every trial of it that this machine can make: docs/release.md. RELEASE_ARGS: such as
# "--python 3.11". AVFLOW_CUDA=1: without an nvcc that is an error.
VENV_RELEASE ?= $(VENV)-release
release: $(VENV_RELEASE)/.installed
	$(VENV_RELEASE)/bin/python tools/release --torch "$(TORCH)" $(RELEASE_ARGS)

# Needs aarch64-linux-gnu-g++ and qemu-aarch64: apt-get install g++-aarch64-linux-gnu qemu-user. A minute.
aarch64: $(VENV)/.installed
	$(BIN)/python tools/release/aarch64.py

$(VENV_RELEASE)/.installed: tools/release/requirements.txt
	test -x $(VENV_RELEASE)/bin/python || $(PYTHON) -m venv $(VENV_RELEASE)
	$(VENV_RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet --upgrade pip
	$(VENV_RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet -r tools/release/requirements.txt
	touch $@

bench: ext
	$(BIN)/python benchmarks cpu/attention
	$(BIN)/python benchmarks cpu/sweep
	$(BIN)/python benchmarks cpu/evict

clean:
	rm -rf build dist *.egg-info avflow_ext/_C*.so avflow_ext/include avflow_ext/lib avflow_ext/share .pytest_cache .ruff_cache .mypy_cache .hypothesis

# The environment: torch, the build's tools, then avflow itself with what it needs, as an editable install.
$(VENV)/.installed: pyproject.toml setup.py tools/build_backend.py avflow-models/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip setuptools wheel
	$(PIP) install --quiet "$(TORCH)" cmake ninja pybind11
	$(PIP) install --quiet --no-build-isolation --editable . --editable avflow-models
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	$(PIP) install --quiet --no-build-isolation --editable ".[anchors]" || \
		echo "the published media readers cannot be installed: what is compared with them is skipped"
	rm -rf $(VENV)/foreign
	$(PIP) install --quiet --no-deps --target $(VENV)/foreign "$(TORCHVISION)"
	touch $@
