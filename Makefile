# Every target makes .venv when it is missing or older than the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Threads of the test processes; two processes of one thread each beat one of two.
TEST_PROCESSES ?= 2

.PHONY: repro test test-fast lint format bench bench-text bench-gpu board-scenes board-language board-tiny-imagenet board-generation board-tasks lock check-lock clean

# Outdated stages, one per core at a time (with a GPU one); then DVC looks at everything, raw data included.
repro: $(STAMP)
	python -m stages.run --outdated
	dvc repro

test: $(STAMP)
	OMP_NUM_THREADS=1 pytest -n $(TEST_PROCESSES) --dist loadscope tests

# The tests of single parts, without a pipeline; tests/conftest.py says which.
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 pytest -n $(TEST_PROCESSES) -m fast tests

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy

format: $(STAMP)
	ruff check --fix .
	ruff format .

bench: $(STAMP)
	python -m tests.bench

bench-text: $(STAMP)
	python -m tests.bench.text

# One CUDA GPU, at most 8 minutes by its own account; the figures go to gpu.json. The command alone, without .venv, needs
# torch, numpy, pydantic, ruamel.yaml, safetensors and pyarrow.
bench-gpu: $(STAMP)
	python -m tests.bench.gpu --out gpu.json

# Codebooks first, then the rows that are missing, one per core, then the page. It can be stopped and called again.
board-scenes: $(STAMP)
	dvc repro graph cluster boards/scenes/dvc.yaml:graph boards/scenes/dvc.yaml:cluster
	python -m stages.boards --folder boards/scenes
	vqpipe boards

# LG-VQ's rows, from the same codebooks; it needs none of the rows above.
board-language: $(STAMP)
	dvc repro graph cluster
	python -m stages.boards --folder boards/language
	vqpipe boards

# The main rows of boards/scenes on your own copy of the data; boards/tiny-imagenet/params.yaml has the path.
board-tiny-imagenet: $(STAMP)
	dvc repro cluster boards/tiny-imagenet/dvc.yaml:graph boards/tiny-imagenet/dvc.yaml:cluster
	python -m stages.boards --folder boards/tiny-imagenet
	vqpipe boards

# Tokenizers of boards/scenes, each trained once, with every prior trained on it.
board-generation: $(STAMP)
	dvc repro graph cluster judges boards/scenes/dvc.yaml:cluster
	python -m stages.boards --folder boards/generation
	vqpipe boards

# Tasks solved from the tokens of eleven tokenizers, of the six of the board with a stronger text side, and from
# what the codes of one are compared with.
board-tasks: $(STAMP)
	dvc repro graph cluster boards/tasks-text/dvc.yaml:graph
	python -m stages.boards --folder boards/tasks
	python -m stages.boards --folder boards/tasks-text
	python -m stages.boards --folder boards/tasks-inputs
	vqpipe boards

# Was what git tracks of the results made by the code and the params of the tree?
check-lock: $(STAMP)
	python -m stages.lock

clean:
	rm -rf $(VENV) .scratch .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

lock:
	$(BIN)/pip freeze --exclude-editable --exclude vqpipe > requirements.lock

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "vqpipe needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(STAMP)
