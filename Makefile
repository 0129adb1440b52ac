# Two commands: `make demo` and `make test`. Each makes .venv and installs what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
OUT ?= $(if $(DATA),runs/demo-$(notdir $(patsubst %/,%,$(DATA))),runs/demo)
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint install clean

demo: install
	@$(BIN)/python -m launch.demo --out "$(OUT)" $(if $(DATA),--data "$(DATA)")

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

install: $(INSTALLED)

# The constraints pin every version. g++ is not needed; the CPU and CUDA builds of torch answer to the same pin.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		|| { echo "error: $(PYTHON) is $$($(PYTHON) --version); wanted Python 3.11 or 3.12: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
