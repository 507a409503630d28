# One virtual environment serves all targets; each makes sure of what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# What `make test-gpu` installs: gpu, or tensorrt, which has gpu in it.
EXTRA ?= gpu
BATCHES := 1,8,64

.PHONY: dev demo test test-gpu check docs stress bench clean

dev: $(VENV)/.dev  ## everything that development needs, recipes included

demo: $(VENV)/.demo  ## features, mask and depth of a photograph, from the model inside
	$(BIN)/clsspec extract examples/waiting-room.jpg --out feats.npy
	$(BIN)/clsspec segment examples/waiting-room.jpg --out mask.png --overlay
	$(BIN)/clsspec depth examples/waiting-room.jpg --out depth.png --colormap turbo
	$(BIN)/python -c "import numpy; print('feats.npy:', numpy.load('feats.npy').shape)"

test: $(VENV)/.dev  ## every test
	$(BIN)/pytest -n auto

test-gpu: .venv-gpu/.$(EXTRA)  ## with an NVIDIA GPU: exactness and speed there, as a report; EXTRA=tensorrt has that, too
	.venv-gpu/bin/pytest -q -rs tests/gpu
	.venv-gpu/bin/clsspec bench --engine cuda --batch-size $(BATCHES)
	$(if $(filter tensorrt,$(EXTRA)),.venv-gpu/bin/clsspec bench --engine tensorrt --batch-size $(BATCHES))

check: $(VENV)/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## docs/cli.md from the commands themselves
	$(BIN)/typer clsspec_cli.app utils docs --name clsspec --title "The commands" --output docs/cli.md

stress: $(VENV)/.dev  ## the long suites whole, and every architecture, L and H too: 15 GB, an hour
	$(BIN)/pytest -s tests/stress --stress
	$(BIN)/pytest tests --ignore tests/stress --stress -m stress
	$(BIN)/python benchmarks/architectures.py --all

bench: $(VENV)/.dev  ## specialized against plain twin on this machine
	$(BIN)/python benchmarks/twin.py

clean:
	rm -rf $(VENV) .venv-gpu feats.npy mask.png mask.overlay.png depth.png depth.colors.png

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) ".[cpu]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[dev]"
	touch $@

# Apart, as onnxruntime and onnxruntime-gpu overwrite each other's files.
.venv-gpu/.$(EXTRA): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e ".[$(EXTRA),export,dataset]" pytest scikit-image webdataset
	touch $@
