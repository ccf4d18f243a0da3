# make train · make test · make check · make bench · make report: each sets up what it needs (a .venv with pinned, hashed packages).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: train test lint types check bench report lock clean
.DELETE_ON_ERROR:

train: $(VENV)/.ready
	@$(RUN) -m featherweight train --recipe feather_quick --or-digits

# The tests of one file stay in one process; each process computes with one thread, where a test does not say otherwise.
# Threads that wait sleep: with several processes on few cores, waiting awake doubles the time of what has two threads.
test: lint types
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.ready
	$(RUN) -m pyright --warnings

check: $(VENV)/.ready
	$(RUN) -m featherweight check feather_quick

bench: $(VENV)/.ready
	@$(RUN) -m featherweight bench

report: $(VENV)/.ready
	$(RUN) -m featherweight report

lock:
	$(RUN) -m pip install --quiet uv
	$(RUN) tools/lock.py

$(VENV)/.ready: requirements.lock requirements-cuda.lock pyproject.toml tools/setup_venv.py
	$(PYTHON) tools/setup_venv.py $(VENV)

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
