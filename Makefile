# One virtual environment serves all targets; each makes sure of what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := vit_small_patch14_dinov2_clsspec

.PHONY: dev demo test check docs stress bench clean

dev: $(VENV)/.dev  ## everything that development needs, recipes included

demo: $(VENV)/.demo  ## features of a photograph, from a small model with random weights
	test -d demo-bundle || $(BIN)/clsspec export random:$(DEMO) --out demo-bundle
	$(BIN)/clsspec extract examples/coffee.jpg --model demo-bundle --out feats.npy
	$(BIN)/python -c "import numpy; print('feats.npy:', numpy.load('feats.npy').shape)"

test: $(VENV)/.dev  ## every test
	$(BIN)/pytest -n auto

check: $(VENV)/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## docs/cli.md from the commands themselves
	$(BIN)/typer clsspec_cli.app utils docs --name clsspec --title "The commands" --output docs/cli.md

stress: $(VENV)/.dev  ## every architecture of the paper, L and H too: 12 GB of memory, half an hour
	$(BIN)/python benchmarks/architectures.py --all

bench: $(VENV)/.dev  ## specialized against plain twin on this machine
	$(BIN)/python benchmarks/twin.py

clean:
	rm -rf $(VENV) demo-bundle feats.npy

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) ".[cpu,export]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[dev]"
	touch $@
