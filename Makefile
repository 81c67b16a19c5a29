# Each target sets up what it needs: .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)  # as one is in a container; JupyterLab must be told

.PHONY: demo test lab notebooks lint bench
.DELETE_ON_ERROR:

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebooks,dev]"
	touch $@

demo: .venv/ready  ## data, training, scores, pictures, report: about 12 minutes
	$(BIN)/magnet demo

test: .venv/ready  ## lint and every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lab: .venv/ready  ## JupyterLab on the first notebook
	$(BIN)/jupyter lab $(AS_ROOT) notebooks/00_start_here.ipynb

notebooks: .venv/ready  ## run the notebooks and keep their outputs
	$(BIN)/magnet notebooks run --in-place

lint: .venv/ready
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: .venv/ready  ## measure again what README's table claims and needs no trained weights of one's own, into results/tables, and print it; an hour and a half, a guess
	for name in refshapes bootstrap data_index explorer training evaluation hostile held full_size demo; do $(BIN)/python benchmarks/$$name.py --output results/tables/$$name.csv || exit 1; done
	for name in speed variants; do $(BIN)/magnet benchmark $$name --output results/tables/$$name.csv || exit 1; done
	$(BIN)/python benchmarks/readme.py
