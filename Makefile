.PHONY: install check test bench

# Everything that training, the built-in corpus and the tests need, into the active environment.
install:
	python -m pip install -e ".[train,demo,lora,dev]"
	pre-commit install

check:
	ruff check .
	ruff format --check .

test:
	python -m pytest

# One script per performance claim; each prints a table and writes JSON.
bench:
	@set -e; for name in features audit dataloading batching inference streaming training; do echo "== $$name"; python -m benchmarks.$$name; done
