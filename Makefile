PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo notebooks test test-all lint types clean

# torch by its exact version first: with it in place, nothing below asks the index for another build
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# Fit the galaxy of the shipped sample; the results are in demo-results
demo: .venv/installed
	$(BIN)/bayesprof fit --settings examples/sample.toml --out demo-results --overwrite

# Run the notebooks of examples/ again, in place: the outputs that they are stored with. A quarter of an hour
notebooks: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[notebooks]"
	$(BIN)/python examples/run_notebooks.py

test: .venv/installed-test lint types
	$(BIN)/python -m pytest -n 2

# the slow ones too, more than half an hour
test-all: .venv/installed-test lint types
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# an installed copy: mypy can't follow the map from models/ to bayesprof.models in an editable install
types: .venv/installed-test
	rm -rf build && mkdir -p build/types
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/types .
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p bayesprof

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo-results
