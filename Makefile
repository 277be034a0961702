# make run: set everything up and run the main job on the 70,000 MNIST images. make test: set up and pass the tests.
# Needs Python 3.11, a C++ compiler and make. Everything else comes from the package index, into .uv/ and .venv/.

PYTHON ?= python3.11
UV     := .uv/bin/uv
BIN    := .venv/bin
export UV_PYTHON = $(shell command -v $(PYTHON) || command -v python3)

.PHONY: run test slow lint bench setup clean help

run: .venv/ready          ## set up, then train and test the default recipe
	$(BIN)/idxtrain run

test: .venv/ready         ## set up, then lint and the quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow"

slow: .venv/ready         ## full-length trainings
	$(BIN)/pytest -m slow

bench: .venv/ready        ## the benchmark table; ONLY=reader,prepare ROUNDS=5
	$(BIN)/python -m tests.benchmarks.bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS))

setup: .venv/ready        ## the environment alone

# One lock file decides every version. Horovod is compiled here, which takes most of the time (about 2 minutes on 2
# cores). With UV_DEFAULT_INDEX set (a mirror of PyPI), uv takes the locked versions from there. Bytecode is compiled once,
# here: where Python may not write it (PYTHONDONTWRITEBYTECODE, an installation that is not the user's own), each process
# would do so again, 11 s for TensorFlow alone.
.venv/ready: uv.lock pyproject.toml | $(UV)
	$(UV) sync --compile-bytecode $(if $(UV_DEFAULT_INDEX),,--frozen)
	@touch $@

$(UV):
	$(UV_PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

clean:                    ## remove what setup made; work/ stays
	rm -rf .uv .venv

help:                     ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10
