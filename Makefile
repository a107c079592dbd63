# Each target sets up what it needs, once: a virtual environment (the active one, or else .venv) and the packages.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev,docs,demo
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
# Stamp files: what is installed stays installed until pyproject.toml or the constraints change.
INSTALLED := $(VENV)/.gmae-tools-installed
INSTALLED_DEV := $(VENV)/.gmae-tools-installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench reliability wheel

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /make \1: /p' Makefile

demo: $(INSTALLED)  ## layer pictures of a bundled photograph, in demo-output/
	$(BIN)/gmae-tools layers gmae_tools/assets/demo.jpg --out demo-output
	@echo "The pictures are in $(CURDIR)/demo-output"

test: $(INSTALLED_DEV)  ## run the tests; ARGS='-m "not slow"' leaves out the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(ARGS)

lint: $(INSTALLED_DEV)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED_DEV)  ## build the site in build/site, any warning an error; open build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The site is in $(CURDIR)/build/site"

bench: $(INSTALLED_DEV)  ## time the renderer against a PyTorch one
	$(BIN)/python -m evals.benchmarks.splatting_speed $(ARGS)

reliability: $(INSTALLED_DEV)  ## try to break what the package guarantees, for 40 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/reliability
	$(BIN)/python -m tests.reliability $(ARGS)

wheel: $(INSTALLED_DEV)  ## build the wheel in dist/, and try it in an empty environment
	rm -f dist/*.whl
	$(BIN)/python -m hatchling build --target wheel
	PYTHON=$(abspath $(BIN)/python) bash .github/try-wheel.sh dist/*.whl

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than 3.10; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(INSTALLED): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	# gradio asks for a Pillow below 13, and works with the one that users without the demo get.
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --no-deps --upgrade pillow
	# An oracle of the tests; it asks for a numpy of the past, and works with today's.
	$(BIN)/python -m pip install --no-deps pysodmetrics==1.5.1
	@touch $@
