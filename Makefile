# Every target creates the virtual environment that it needs; nothing else has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What to install as torch. On Linux pip's index has the build with CUDA, of several GB. For the build for the CPU, choose CPU on
# pytorch.org and give the index that it names: make demo TORCH="torch --extra-index-url ADDRESS"
TORCH ?= torch

.PHONY: demo chat test lint bench fuzz sanitize docs pins wheels release-check clean

demo: $(VENV)/.run
	@$(BIN)/bullet run demo

chat: $(VENV)/.run
	@$(BIN)/bullet chat demo

test: $(VENV)/.dev
	@$(BIN)/pytest --numprocesses auto

C_FILES = $(wildcard src/bulletlm/*/native/*.[ch] src/bulletlm/formats/html/native/*.[ch] src/bulletlm/formats/html/native/include/*.h tests/native/*.[ch] docs/examples/*.c)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $(C_FILES)

# A short run of two benchmarks, to check that they work. The docstring of each script describes the full run.
bench: $(VENV)/.dev
	@$(BIN)/python bench/train_speed.py --quick
	@$(BIN)/python bench/runtime.py --quick

# Runs the C code under AddressSanitizer and UBSan: many shapes and all weight types, then mutated files. It takes less than two minutes.
NATIVE := src/bulletlm/runtime/native
TRAIN := src/bulletlm/train/native
SANITIZE := -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -pthread

sanitize: $(VENV)/.dev
	@mkdir -p build
	$(CC) $(SANITIZE) tests/native/check.c $(NATIVE)/*.c -lm -o build/check
	@build/check
	$(CC) $(SANITIZE) tests/native/check_train.c $(TRAIN)/*.c $(NATIVE)/threads.c -lm -o build/check_train
	@build/check_train
	for library in "" -DTRAIN_AVX512 -DTRAIN_AVX2; do \
		$(CC) $(SANITIZE) -ffp-contract=off $$library tests/native/check_approx.c -lm -o build/check_approx && build/check_approx || exit 1; \
	done
	$(CC) $(SANITIZE) -fPIC -shared $(NATIVE)/*.c -lm -o build/sanitized.so
	@LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 $(BIN)/python tests/native/mutate.py 20 build/sanitized.so

# Reads mutated models of every format, then runs mutated models in the native engine, for half of the time each, and prints the counts.
SECONDS ?= 1200

fuzz: $(VENV)/.dev
	@$(BIN)/python tests/formats/bullet/fuzz.py $$(($(SECONDS) / 2))
	@$(BIN)/python tests/native/mutate.py $$(($(SECONDS) / 2))

# Pages that are generated from the code; a test checks that they are up to date.
docs: $(VENV)/.dev
	@$(BIN)/python docs/generate.py

# The newest versions that pyproject.toml allows, for constraints.txt and the build requirements; then run make test.
pins:
	$(PYTHON) -m venv --clear build/pins
	build/pins/bin/pip install --quiet $(TORCH) setuptools
	build/pins/bin/pip install --quiet --no-build-isolation --editable '.[dev]'
	build/pins/bin/python tools/refresh_pins.py

# The source distribution and the wheels for Linux on x86-64 and aarch64, in dist/. It needs Debian's gcc-aarch64-linux-gnu.
wheels: $(VENV)/.dev
	@$(BIN)/python tools/build_wheels.py

# Builds the wheels, installs them in fresh environments of every Python that is found, without a compiler; runs them; prints their sizes.
# Also follows README.md in a fresh clone. A failed check does not stop the others; the last lines are a table of all of them. For single
# checks: $(BIN)/python tools/release_check.py --list, then --only NAME.
release-check: $(VENV)/.dev
	@TORCH="$(TORCH)" $(BIN)/python tools/release_check.py

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.run: pyproject.toml constraints.txt setup.py $(wildcard src/bulletlm/*/native/*)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or call make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python tools/install.py $(TORCH)
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
