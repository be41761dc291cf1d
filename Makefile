# make demo     install into .venv and encode the demo images
# make test     install into .venv, lint, type-check, run every test
# make torture  kill every verb at every call that changes the disk; takes an hour or more
# make check    lint and type-check only
# make clean    remove .venv, builds and caches

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test torture check clean

demo: $(INSTALLED)
	$(BIN)/python -m latentkit.encode
	@echo "The picture: outputs/demo/preview.png"

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

torture: $(INSTALLED)
	LATENTKIT_TORTURE=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 7200 -k kill

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
