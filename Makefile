# make run: set up, then train and test on the 70,000 MNIST images. make test: set up, then lint and test.
# Needs Linux x86-64, Python 3.11, a C++ compiler and make. The rest comes from the package index, into .uv/ and .venv/.

PYTHON ?= python3.11
UV     := .uv/bin/uv
BIN    := .venv/bin
SYNC   ?=                 # more options for uv sync
SLIM   ?=                 # 1: only what programs need, for clusters and images; `make clean` before another choice
LEAN    = $(if $(SLIM),--no-group dev) $(SYNC)
# Two files of tests at a time, as a test that starts programs leaves a core idle. In order: the longest files come first.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
export UV_PYTHON = $(shell command -v $(PYTHON) || command -v python3)

.PHONY: run test test-all slow lint bench audit sbom setup gpu-env mpi-env clean help

run: .venv/ready          ## set up, then train and test the default recipe
	$(BIN)/idxtrain run

test: lint                ## set up, lint, and run every test that takes seconds (under 10 minutes on 2 cores)
	$(PYTEST) -m "not long and not slow"

test-all: lint            ## the same with the tests that take longer, as CI does
	$(PYTEST) -m "not slow"

lint: .venv/ready         ## style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

slow: .venv/ready         ## full-length trainings
	$(BIN)/pytest -m slow

bench: .venv/ready        ## the benchmark table; ONLY=reader,prepare ROUNDS=5
	$(BIN)/python -m tests.benchmarks.bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS))

# pip-audit comes from the lock, too, into an environment that is removed afterwards.
audit: | $(UV)            ## known vulnerabilities of the locked packages
	@$(UV) run --quiet --isolated --frozen --only-group audit python -m tests.supply.audit $(AUDIT)

sbom: | $(UV)             ## the bill of materials, CycloneDX: sbom.cdx.json
	@$(UV_PYTHON) -m tests.supply.sbom $(UV) sbom.cdx.json

setup: .venv/ready        ## the environment alone; SLIM=1: what programs need, in few files

# One lock file decides every version. Compiling Horovod takes most of the time: about 2 minutes on 2 cores.
# With UV_DEFAULT_INDEX set (a mirror of PyPI), uv takes the locked versions from there. Bytecode is compiled once, here.
# Where Python may not write it (PYTHONDONTWRITEBYTECODE, an installation that another user owns), each process would
# compile it again: 11 s for TensorFlow alone. MAKEFLAGS is emptied because Horovod then compiles in parallel.
.venv/ready: uv.lock pyproject.toml | $(UV)
	MAKEFLAGS= $(UV) sync --compile-bytecode $(if $(UV_DEFAULT_INDEX),,--frozen) $(LEAN)
	$(if $(SLIM),$(UV_PYTHON) -m deploy.staging.slim $(@D))
	@touch $@

gpu-env: .venv-gpu/ready  ## an environment for several GPUs: .venv-gpu, with CUDA 12 and a Horovod that has NCCL

# The same lock file gives CUDA's and NCCL's libraries. Horovod is compiled again, which needs CUDA's compiler but no GPU.
# Horovod links to libnccl.so, which the wheel lacks: hence the link. The config setting only separates the builds with
# and without NCCL in uv's cache. UV_PYTHON names the environment's own Python: given another path to the same Python, such
# as pyenv's, uv would create the environment again, without the link. The last line checks what was built.
CUDA_HOME ?= /usr/local/cuda
NCCL      := $(CURDIR)/.venv-gpu/lib/python3.11/site-packages/nvidia/nccl
GPU_SYNC   = MAKEFLAGS= UV_PROJECT_ENVIRONMENT=.venv-gpu PATH="$(CUDA_HOME)/bin:$$PATH" CUDACXX=$(CUDA_HOME)/bin/nvcc \
	HOROVOD_CUDA_HOME=$(CUDA_HOME) HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL \
	HOROVOD_NCCL_HOME=$(NCCL) HOROVOD_NCCL_LINK=SHARED \
	$(UV) sync --extra gpu $(if $(UV_DEFAULT_INDEX),,--frozen) $(LEAN)

.venv-gpu/ready: uv.lock pyproject.toml | $(UV)
	@test -x $(CUDA_HOME)/bin/nvcc || { echo "$(CUDA_HOME)/bin/nvcc: missing; fix: load the CUDA 12 module, or set CUDA_HOME"; exit 2; }
	$(GPU_SYNC) --no-install-package horovod
	ln -sf libnccl.so.2 $(NCCL)/lib/libnccl.so
	UV_PYTHON=$(CURDIR)/.venv-gpu/bin/python $(GPU_SYNC) --compile-bytecode --config-settings-package horovod:operations=NCCL
	.venv-gpu/bin/python -c "import horovod.tensorflow as hvd, sys; sys.exit(not (hvd.nccl_built() and hvd.gloo_built()))"
	$(if $(SLIM),$(UV_PYTHON) -m deploy.staging.slim $(@D))
	@touch $@

$(UV):
	$(UV_PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

mpi-env: .venv-mpi/ready  ## an environment for the launchers srun-pmix and mpirun: .venv-mpi, with a Horovod that has MPI

# Built against the MPI whose compiler is mpicxx: a module's, or Debian's openmpi-bin and libopenmpi-dev.
.venv-mpi/ready: uv.lock pyproject.toml | $(UV)
	@command -v mpicxx >/dev/null || { echo "mpicxx: missing; fix: load your cluster's MPI module, or install libopenmpi-dev"; exit 2; }
	MAKEFLAGS= UV_PROJECT_ENVIRONMENT=.venv-mpi HOROVOD_CMAKE=$(CURDIR)/deploy/mpi/cmake \
	$(UV) sync --compile-bytecode $(if $(UV_DEFAULT_INDEX),,--frozen) $(LEAN) --config-settings-package horovod:controller=MPI
	.venv-mpi/bin/python -c "import horovod.tensorflow as hvd, sys; sys.exit(not (hvd.mpi_built() and hvd.gloo_built()))"
	$(if $(SLIM),$(UV_PYTHON) -m deploy.staging.slim $(@D))
	@touch $@

clean:                    ## remove the environments; work/ stays
	rm -rf .uv .venv .venv-gpu .venv-mpi

help:                     ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10
