# Everything runs in .venv, made from requirements.lock. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help reproduce sweep test lint env lock clean

# The first that runs and is recent enough. `python3` leads because it is the one a machine is set
# up for; a version manager's shims may exist without working.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$python && break; done)
TORCH := 2.13.0

VENV := .venv
STAMP := $(VENV)/.installed
# DVC's stages say `python`, so the environment must come first in PATH.
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" PYTHONNOUSERSITE=1 DVC_NO_ANALYTICS=1
PIP := -m pip --disable-pip-version-check -qq

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

reproduce: $(STAMP)  ## environment, then the whole pipeline (dvc repro) of the profile in params.yaml
	@# Unpacked from an archive there is no git repository, and DVC asks for one unless told. (A tree
	@# owned by somebody else: git config --global --add safe.directory <its path>.)
	@if [ ! -e .git ]; then $(IN_VENV) dvc config --local core.no_scm true; \
	elif grep -qs no_scm .dvc/config.local; then $(IN_VENV) dvc config --local --unset core.no_scm; fi
	$(IN_VENV) dvc repro
	@# Where DVC found the committed report unchanged, the account is still of another machine's run.
	@profile="$$(sed -n 's/^profile: *\([^ #]*\).*/\1/p' params.yaml)"; \
	if [ -n "$$(find .provenance/$$profile -newer reports/$$profile/provenance.json 2> /dev/null)" ]; \
	then $(IN_VENV) reg provenance > /dev/null; fi
	@# A difference from the committed report is a finding and no failure of the run. Where there is
	@# no such report (an archive, an own profile) there is nothing to compare with.
	@profile="$$(sed -n 's/^profile: *\([^ #]*\).*/\1/p' params.yaml)"; \
	echo "Figures, tables and claims: reports/$$profile/index.md"; \
	if git cat-file -e "HEAD:./reports/$$profile/claims.json" 2> /dev/null; then $(IN_VENV) reg verify || true; fi

sweep: $(STAMP)  ## what λ does: six trainings, measured on validation images (a figure of the report)
	$(IN_VENV) python -m benchmarks.sweep

test: lint  ## environment, then ruff, mypy --strict and pytest
	$(IN_VENV) python -m pytest

lint: $(STAMP)  ## environment, then ruff and mypy --strict
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

env: $(STAMP)  ## the environment alone, in .venv

define CHECK_PYTHON
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	echo "error: Python 3.11 or newer is needed; install it, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null; then \
	echo "error: $(PYTHON) cannot create environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; fi
endef

# The stamp is written last, so that an interrupted installation is taken up again. An environment
# whose interpreter or pip does not run (interrupted, or its Python is gone) is made anew. pip comes
# first because the one bundled with an old Python may not understand today's wheels.
$(STAMP): requirements.lock pyproject.toml
	$(CHECK_PYTHON)
	@rm -f $@
	@echo "Installing requirements.lock into $(VENV) (once; it takes a few minutes)"
	@$(VENV)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python $(PIP) install "$$(grep '^pip==' requirements.lock)"
	@$(VENV)/bin/python $(PIP) install -r requirements.lock
	@$(VENV)/bin/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Local versions (+cpu) and the packages of the CUDA build are left out: pip adds those that suit
# the machine.
lock:  ## resolve pyproject.toml anew and rewrite requirements.lock
	$(CHECK_PYTHON)
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python $(PIP) install --upgrade pip setuptools
	@.venv-lock/bin/python $(PIP) install torch==$(TORCH) -e '.[test]'
	@{ echo "# Every package of the environment, runtime and tests. Written by: make lock"; \
	.venv-lock/bin/python $(PIP) freeze --all --exclude-editable \
	| sed 's/+.*//' | grep -Ev '^(nvidia|cuda|triton)\b'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@rm -rf .venv-lock

clean:  ## remove the environment and caches (data, models, results and reports stay)
	rm -rf $(VENV) .venv-lock build reg.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find reg stages tests -name __pycache__ -type d -prune -exec rm -rf {} +
