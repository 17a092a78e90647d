# Every target makes its own environment in .venv on first use; python3, pip and make are enough.
#   make journey      the main job: text -> tokenizer -> attention -> GPT -> pretraining -> generation, with a report
#   make test         all tests            make deep    the same proofs, ten times as long
#   make check        lint, format, types  make bench   speed against other projects, results in benchmarks/
# A CPU-only build of torch (small):  make journey PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(PIP_ARGS)

.PHONY: journey test deep check bench clean
.DELETE_ON_ERROR:

journey: $(VENV)/base.done
	$(BIN)/firsthand journey

test: $(VENV)/test.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not deep" tests

deep: $(VENV)/test.done
	OMP_NUM_THREADS=1 FIRSTHAND_DEEP=10 $(BIN)/python -m pytest --timeout 5400 tests

check: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/python -m pytest tests/structure

bench: $(VENV)/bench.done
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install -q --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }

$(VENV)/base.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/test.done: $(VENV)/base.done
	$(PIP) -e '.[test]'
	touch $@

# litgpt wants an older numpy than the rest, so that peer lives in an environment of its own
$(VENV)/bench.done: $(VENV)/test.done
	$(PIP) -e '.[bench]'
	$(PYTHON) -m venv .venv-litgpt
	.venv-litgpt/bin/python -m pip install -q torch==2.13.0 litgpt $(PIP_ARGS)
	touch $@

clean:
	rm -rf $(VENV) .venv-litgpt .pytest_cache .ruff_cache .hypothesis
