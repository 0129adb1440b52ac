# Each target makes .venv and installs what it needs. `make demo` and `make test` are the two to start with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
OUT ?= $(if $(DATA),runs/demo-$(notdir $(patsubst %/,%,$(DATA))),runs/demo)
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-cluster test-long lint docs install clean

demo: install
	@$(BIN)/videomae demo --out "$(OUT)" $(if $(DATA),--data "$(DATA)")

test: install lint
	$(BIN)/python -m pytest -m "not cluster and not long"

# Slurm and ssh on hosts of their own, in network namespaces of this machine: as root, with the packages of .ci/run.
test-cluster: install
	$(BIN)/python -m pytest -m cluster

test-long: install
	$(BIN)/python -m pytest -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(INSTALLED)

# The constraints pin every version. g++ is not needed; the CPU and CUDA builds of torch answer to the same pin.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "error: $(PYTHON) is $$($(PYTHON) --version); wanted Python 3.11, 3.12 or 3.13: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,docs]"
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info
