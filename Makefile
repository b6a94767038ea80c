# Two commands: `make demo` and `make test`. Both make .venv first, with Python alone.
PYTHON ?= python3
# torch as pip's index has it: from PyPI, on Linux, with CUDA, some gigabytes. For the CPU's alone:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= $(shell grep '^torch==' constraints.txt)
TORCH_STAMP := .venv/.torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)
BIN := .venv/bin
AVADER := $(BIN)/avader

export RAY_DATA_PARQUET_FOOTER_NUM_ACTORS = 1
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO = 0

.PHONY: help demo test test-long test-chaos fuzz lint clean-demo

help:
	@echo "make demo       the whole way on a mock survey, under demo/ (about 10 minutes)"
	@echo "make test       lint, types, import law, tests (10 to 20 minutes)"
	@echo "make test-long  the slower tests: real galaxies, cluster jobs, kills (30 to 60 minutes)"
	@echo "make test-chaos 20 rounds of killed drivers, workers and machines (at most 50 minutes)"
	@echo "make fuzz       20,000 mutated images and tables; the last line says how they ended"
	@echo "make clean-demo remove demo/, to start it anew"

$(TORCH_STAMP): constraints.txt
	@echo "== making .venv and installing $(firstword $(TORCH)) (some minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "avader needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@grep -v '^torch==' constraints.txt > .venv/constraints.txt
	@touch $@

.venv/.demo: $(TORCH_STAMP) pyproject.toml
	@echo "== installing avader"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .venv/constraints.txt -e ".[mock]"
	@touch $@

.venv/.test: $(TORCH_STAMP) pyproject.toml
	@echo "== installing avader and what its tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .venv/constraints.txt -e ".[mock,published,test]"
	@touch $@

demo: .venv/.demo
	@echo "== 1 of 7: a mock survey with known truth"
	@$(AVADER) simulate --out demo/survey --count 3000
	@echo "== 2 of 7: pack it"
	@$(AVADER) pack --source demo/survey/survey.parquet --out demo/cutouts --rows-per-shard 250
	@echo "== 3 of 7: train a small model (the longest step: about 4 minutes)"
	@$(AVADER) train --data demo/cutouts --out demo/model --recipe demo
	@echo "== 4 of 7: classify the survey"
	@$(AVADER) classify --model demo/model --data demo/cutouts --out demo/catalogue
	@echo "== 5 of 7: draw a synthetic sky"
	@$(AVADER) generate --model demo/model --out demo/synthetic --count 1000 --rows-per-shard 250
	@echo "== 6 of 7: verify both catalogues"
	@$(AVADER) verify --catalogue demo/catalogue
	@$(AVADER) verify --catalogue demo/synthetic
	@echo "== 7 of 7: a report"
	@$(AVADER) report --model demo/model --catalogue demo/catalogue --out demo/report
	@echo
	@echo "Done. Under demo/:"
	@echo "  survey/       3,000 mock galaxies (FITS and PNG) and survey.parquet, their truth"
	@echo "  cutouts/      the survey as model-ready pixels"
	@echo "  model/        the trained model, and how its training went: training/curves.png"
	@echo "  catalogue/    a row per galaxy: position, component, probabilities, latents, flags"
	@echo "  synthetic/    1,000 galaxies that do not exist"
	@echo "  report/       open demo/report/index.html in a browser"

lint: .venv/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

# Two files of tests at a time. Ray's workers give way to every other process, unless told not to.
test test-long: export RAY_worker_niceness = 0
test: lint
	@$(BIN)/pytest -m "not long" --numprocesses 2 --dist loadfile

test-long: .venv/.test
	@$(BIN)/pytest -m long --timeout 1200 --numprocesses 2 --dist loadfile

test-chaos: .venv/.test
	@$(BIN)/python -m tests.chaos

fuzz: .venv/.test
	@$(BIN)/python -m tests.fuzz --count 20000 --jobs 2

clean-demo:
	@rm -rf demo
