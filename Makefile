PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: two fighting threads are slower than one that is left alone.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: try demo test test-families test-floor coverage check fix bench docs docs-serve clean
.DEFAULT_GOAL := try

SITE = $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

# Processors with a video part need torchvision, whose operators do not load beside every build of torch:
# it goes into a folder that only tests/conftest.py puts on the path.
# lmms-eval has a folder too: it needs torchvision, and an older filelock than the rest has.
# The environment is made once and again whenever what it is made from changes.
$(VENV)/ready: pyproject.toml constraints.txt tests/integrations/lmms-eval.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --constraint constraints.txt --target "$$($(SITE))/torchvision-for-tests" torchvision
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --requirement tests/integrations/lmms-eval.txt --target "$$($(SITE))/lmms-eval-for-tests"
	touch $@

try: $(VENV)/ready
	$(BIN)/vlmheads testbed try

demo: $(VENV)/ready
	$(BIN)/vlmheads demo

test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

# The lowest versions that pyproject.toml allows, laid over $(VENV), from which all else comes. torch is
# not among them by default: PyPI's older builds for Linux need several gigabytes of CUDA.
FLOOR ?= transformers huggingface-hub
FLOOR_VENV := .venv-floor
# The core of the contract: attention rows and logits, a stream with an image of its own, positions in space,
# prompt lookup under a sliding window.
FLOOR_TESTS := $(addprefix tests/,runtime/test_compat.py runtime/test_attach.py runtime/test_hooks.py \
	plugins/test_vcd.py plugins/test_contract.py)
FLOOR_CASES := not contract or (pai] or vcd]) and (llava-gqa or qwen2_5_vl) or gemma3 and lookup

$(FLOOR_VENV)/ready: $(VENV)/ready constraints-floor.txt
	$(PYTHON) -m venv --without-pip --clear $(FLOOR_VENV)
	echo "import site; site.addsitedir('$$($(SITE))')" \
		> "$$($(FLOOR_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
	$(FLOOR_VENV)/bin/python -m pip install --quiet --no-deps --constraint constraints-floor.txt $(FLOOR)
	touch $@

test-floor: $(FLOOR_VENV)/ready
	$(FLOOR_VENV)/bin/python -m pytest --numprocesses 2 --dist loadgroup $(FLOOR_TESTS) -k "$(FLOOR_CASES)"

# Every family that transformers knows, held to every promise; a short form is a part of `test`.
test-families: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses 2 tests/families/sweep.py tests/families

coverage: $(VENV)/ready
	mkdir -p out
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --cov --cov-report=markdown:out/coverage.md

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/tables.py --check

fix: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/tables.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/overhead.py --out out/overhead.json

# The theme prints a note on its successor at every build; CONTRIBUTING.md has it once.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: $(VENV)/ready
	$(BIN)/mkdocs build --strict

docs-serve: $(VENV)/ready
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

clean:
	rm -rf $(VENV) $(FLOOR_VENV) out dist build site
