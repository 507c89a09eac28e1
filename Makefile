# One command each. All of them set up .venv on first use, from the pins in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test test-all check bench install develop clean

demo: install
	@mkdir -p demo
	$(BIN)/unsmear deblur examples/*.png --output demo --overwrite
	@echo "Compare examples/ with demo/."

test: develop
	$(PYTEST)

test-all: develop
	$(PYTEST) -m "slow or not slow"

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(PYTEST)

bench: develop
	$(BIN)/unsmear bench --model saphn-s --model saphn --modules
	$(BIN)/python benchmarks/pixel_adaptive.py
	$(BIN)/python benchmarks/convolution.py
	$(BIN)/python benchmarks/training.py --threads 1
	$(BIN)/python benchmarks/cost.py

# What it takes to deblur pictures, and what it takes to work on the project.
install: $(VENV)/.installed
develop: $(VENV)/.developing

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train,eval,plot,video,tensorboard,photo,raw,heif]'
	@touch $@

clean:
	rm -rf $(VENV) demo
