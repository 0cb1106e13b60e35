# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := demo
# Budgets for two cores and twelve minutes; the laptop settings themselves take about half as long again.
SHORT := --set sft.max_rows=4000
RUN := $(BIN)/recbench run --dataset ml-100k --limit-test 1000 --runs-dir $(DEMO)/runs

.PHONY: demo test lint clean

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# The CPU build first: a range would fetch gigabytes of CUDA packages. Where torch is there already it stays.
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[recbole,dev]'
	touch $@

demo: $(INSTALLED)
	$(RUN) --method popularity
	$(RUN) --method sasrec --config benchmarks/methods/sasrec/laptop.yaml --set epochs=8
	$(RUN) --method bigrec --backbone nano --config benchmarks/methods/bigrec/laptop.yaml $(SHORT)
	$(RUN) --method latentr3 --backbone nano --config benchmarks/methods/latentr3/laptop.yaml $(SHORT) --set rl.max_rows=960
	$(BIN)/recbench compare popularity sasrec bigrec latentr3 --baseline bigrec --dataset ml-100k --runs-dir $(DEMO)/runs
	$(BIN)/recbench report --runs-dir $(DEMO)/runs --out $(DEMO)/report
	@echo "The report is in $(DEMO)/report: open index.html there in a browser, or README.md."

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

clean:
	rm -rf .venv $(DEMO)
