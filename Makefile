# The commands of the project. ARGS are passed on: make run ARGS=--once, make test ARGS="-k pool".
ARGS ?=
.PHONY: run setup test check bench clean lock

run: setup  ## Set up, serve, and show a sandbox at work through the official E2B SDK
	@.venv/bin/atoll demo $(ARGS)

setup:  ## Install what the machine lacks
	@scripts/setup

test: setup  ## All checks and all tests
	@scripts/setup-tests
	@scripts/check
	@.venv/bin/atoll template build base code-interpreter-v1
	@.venv/bin/pytest $(ARGS)

check: setup  ## Lint, types and unit tests: under a minute
	@scripts/check
	@.venv/bin/pytest -q -n 2 --dist loadfile tests/unit $(ARGS)

bench: setup  ## Measure against the floors and the peers of this machine
	@.venv/bin/python -m bench $(ARGS)

clean:  ## End all sandboxes and remove all state (ARGS=--templates: the built templates, too)
	@if [ -x .venv/bin/atoll ]; then .venv/bin/atoll clean $(ARGS); fi
	@rm -rf .mypy_cache .pytest_cache .ruff_cache dist

lock:  ## Write requirements.lock anew (ARGS=--upgrade: with the newest versions)
	@scripts/lock $(ARGS)
