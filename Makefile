# Two commands: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
KILLS ?= 30

.PHONY: demo audit-demo test slow mutants faults cluster fuzz lint bench verdicts board docs clean

demo: $(READY)
	$(BIN)/distrust demo

audit-demo: $(READY)
	rm -rf audit-demo
	$(BIN)/python examples/audit_two_teachers.py

test: $(READY) lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

slow: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

mutants: $(READY)
	$(BIN)/python -m tests.mutants

faults: $(READY)
	FAULTS=500 $(BIN)/python -m pytest -q tests/test_durable.py tests/test_places.py
	$(BIN)/python -m tests.kills $(KILLS)

cluster: $(READY)
	$(BIN)/python -m pytest -q tests/clusters.py tests/recipes.py
	$(BIN)/python -m tests.kills $(KILLS) --ray

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --cases 1500

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

verdicts: $(READY)
	$(BIN)/python -m tests.verdicts

board: $(READY)
	$(BIN)/distrust board build

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf .venv runs report.html audit-demo site

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Distrust needs Python 3.11 or newer; type: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
