# The two commands of the README. Each makes .venv if it is not there; both need Python 3.12 and a package index.
PYTHON := $(shell for p in python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test bench check clean

help:  ## Say what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

.venv/.installed: pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || [ -n "$(PYTHON)" ] || { echo "rsgeo_gan needs Python 3.12 or newer; none was found. Install it (python3.12 with venv) and run make again." >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing (about 3 minutes and 6.5 GB the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[flows,test]'
	@touch $@

demo: .venv/.installed  ## Sample scenes to synthetic SAR and a report, in out/demo (under 10 minutes)
	@$(BIN)/rsgeo-gan demo --out out/demo

check: .venv/.installed  ## Format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## All checks and the test suite (under 12 minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: .venv/.installed  ## Speed and memory beside other tools, as ratios
	@for f in tests/benchmarks/bench_*.py; do $(BIN)/python $$f || exit 1; done

clean:  ## Take away outputs and caches, keep .venv
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
