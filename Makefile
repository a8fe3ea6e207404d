# Every verb sets up what it needs: a virtual environment in .venv, the package in it, the C core.
#
#   make demo  [FILE=path]         three nodes, one of them killed in the middle of a load
#   make test  [ARGS='-k name']    the whole suite, or a part of it
#   make check                     lint, formatting and types; changes nothing
#   make cover                     that the tests of the protocol core reach every branch of it
#   make fmt                       formats
#   make clean                     removes what the other verbs made

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
SOURCES := pyproject.toml setup.py $(wildcard walle/native/*.c walle/native/*.h) \
	walle/native/build_native.py

.PHONY: demo test check cover fmt clean

demo: $(READY)
	$(BIN)/python tools/demo.py $(FILE)

# Files of tests run beside one another, as most of the time they wait: for a lease, for a restart.
# The tests of one file share what it starts, and run in turn. The longest files are in the middle.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 \
		--dist=loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

cover: $(READY)
	$(BIN)/coverage run -m pytest -q tests/core tests/unit/core tests/property \
		--ignore=tests/core/test_simulation.py --ignore=tests/core/test_broken.py
	$(BIN)/coverage report

fmt: $(READY)
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

$(READY): $(SOURCES)
	@echo "setting up .venv (once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .coverage build *.egg-info walle/native/_core.c walle/native/*.so
