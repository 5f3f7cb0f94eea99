# Everything runs in .venv, which `make setup` creates from the lock file. Needs Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup train test check browser bench chaos docs results fuzz models sweep lock clean

setup: .venv/.done

.venv/.done: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("transmix needs Python 3.11 or newer; say make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

train: setup  ## a Vision Transformer on the embedded digits, about two minutes
	$(BIN)/transmix train --recipe digits --out runs/digits-$$(date +%Y%m%d-%H%M%S)

test: setup  ## in two processes; to look into one test: .venv/bin/python -m pytest tests/...
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

browser: setup  ## a Chromium for the tests that open pages, if there is none
	$(BIN)/python scripts/browser.py

bench: setup  ## the speed benchmarks that a CPU can run, about five minutes, into runs/bench
	$(BIN)/python benchmarks/all.py

models: setup  ## measure every listed model: the table of `transmix models` and docs/models.md
	$(BIN)/python scripts/models.py

sweep: setup  ## bend every listed model and integration until a label could be wrong: the table in docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python scripts/sweep.py

docs: setup  ## the site, into build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

results: setup  ## docs/results.md from the figures in benchmarks/results
	$(BIN)/python benchmarks/compare/results.py

chaos: setup  ## 200 training runs killed at random, resumed, compared to the bit
	OMP_NUM_THREADS=1 $(BIN)/python scripts/chaos.py --kills 240

fuzz: setup  ## 15,000 damaged images, recipes and checkpoints
	$(BIN)/python scripts/fuzz.py

lock: setup  ## resolve again; names, versions and markers alone
	$(BIN)/python scripts/lock.py

clean:
	rm -rf .venv build dist *.egg-info
