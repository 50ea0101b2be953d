# One command each; `make help` lists them. Works with the GNU make 3.81 of macOS.
#   PYTHON=python3.12     the interpreter for the environment (3.11 or newer)
#   PRESET, DATA, SEEDS   passed on by `make reproduce`
#   ARGS                  more arguments for pytest or JupyterLab
#   WORKERS               processes that share the tests (0: the tests run in pytest's own)
PYTHON ?= python3
PRESET = quick
DATA =
SEEDS =
ARGS =
WORKERS = 2

VENV = .venv
BIN = $(VENV)/bin
# Written last, so an interrupted set-up is taken up again by the next call. It says for which folder:
# an environment knows the package, and its commands their interpreter, by absolute paths, so that a
# copied or moved checkout needs one of its own. What .venv is a link to stays as it is.
STAMP = $(VENV)/.horkd-ready
ELSEWHERE = grep -qs '^command = ' $(VENV)/pyvenv.cfg \
  && ! grep -qF " $$(pwd -P)/$(VENV)" $(VENV)/pyvenv.cfg
SET_UP_FOR := $(shell if test -L $(VENV) && $(ELSEWHERE); then pwd -P; else cat $(STAMP) 2>/dev/null; fi)

.PHONY: help setup reproduce test bench demo lab notebooks lint lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build the environment in .venv (a second call reuses it)

ifneq "$(SET_UP_FOR)" "$(CURDIR)"
$(STAMP): anew
endif
.PHONY: anew
anew:

# The environment starts without pip because Debian's venv cannot provide it without a further
# package; pip then comes from ensurepip or from the interpreter's own pip. uv installs in seconds
# what takes pip minutes, but pip can always do it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "horkd needs Python 3.11 or newer, and $(PYTHON) is not: try make setup PYTHON=python3.12" >&2; exit 1; }
	@! { test -L $(VENV) && $(ELSEWHERE); } || { \
	  echo "$(VENV) is a link to the environment of another folder: set it up there, or remove the link" >&2; exit 1; }
	@{ $(BIN)/python -c '' 2>/dev/null && ! { $(ELSEWHERE); }; } \
	  || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || $(BIN)/python -m ensurepip >/dev/null 2>&1 \
	  || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip || { \
	  echo "$(PYTHON) has neither ensurepip nor pip: install python3-venv or python3-pip first" >&2; exit 1; }
	@{ $(BIN)/python -m pip install --quiet -c constraints.txt uv \
	  && $(BIN)/uv pip install --system-certs --python $(BIN)/python -c constraints.txt -e '.[dev]'; } || { \
	  echo "uv did not work here: installing with pip, which takes some minutes"; \
	  $(BIN)/python -m pip install -c constraints.txt -e '.[dev]'; }
	@pwd -P > $@

reproduce: $(STAMP) ## run the notebooks and write the report (PRESET=quick DATA= SEEDS=)
	$(BIN)/python -m horkd reproduce --preset $(PRESET) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS))

test: $(STAMP) ## run the tests and every notebook (ARGS="-k losses")
	$(BIN)/python -m pytest --nbmake -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

bench: $(STAMP) ## time the losses against the published formula (ARGS="--device cuda")
	$(BIN)/python benchmarks/losses.py $(ARGS)

demo: $(STAMP) ## open the demo on this machine (ARGS="--models FOLDER --port 7861")
	$(BIN)/python -m app $(ARGS)

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: $(STAMP) ## write each notebooks/*.ipynb anew from its .py
	$(BIN)/python -m horkd.notebooks

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: $(STAMP) ## bring constraints.txt up to date with pyproject.toml (UPGRADE=1: newest versions)
	$(BIN)/uv pip compile --system-certs --universal --all-extras --no-annotate --no-header \
	  --no-emit-index-url --no-emit-package horkd $(if $(UPGRADE),--upgrade) \
	  --quiet pyproject.toml -o constraints.txt

clean: ## remove the environment and caches (runs/, reports/ and data stay)
	rm -rf $(VENV) horkd.egg-info build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
