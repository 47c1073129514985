#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds for this GPU, tests against float64, checks memory accesses, measures.
#
#   [OUT=folder] [PYTHON=python3] [FRONT_COMMIT=name] bash bench/gpu_check.sh
#
# No network. At most 8 minutes: every step has its limit, the benchmark gets what is left. Logs, bench.csv and pictures go to
# OUT (bench/results); a table of the steps comes last. Exit status 1 if the build, a test or a comparison failed.
set -u
cd "$(dirname "$0")/.." || exit 1
ROOT=$PWD
OUT=${OUT:-$ROOT/bench/results}
PY=${PYTHON:-python3}
TOTAL=465   # seconds, for all steps
BUILD=200 OPS=140 TRITON=60 TORCH=90 SMALL=80   # at most; SMALL: gpu_small.py, by itself or under the sanitizer's tools
PYTEST_ARGS=${PYTEST_ARGS:--x -q}
SUMMARY=() STATUS=0
mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)
# NOTE: PEP 668 lets pip refuse a distribution's own Python; what is installed here is this checkout, in place.
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export PYTHONPATH="$ROOT:$ROOT/python${PYTHONPATH:+:$PYTHONPATH}"

seconds_left() { echo $((TOTAL - SECONDS)); }

# record NAME PASS|FAIL|SKIP SECONDS NOTE
record() {
  SUMMARY+=("$(printf '%-10s %-4s %4s s  %s' "$@")")
  if [ "$2" = FAIL ]; then STATUS=1; fi
}

# limited LIMIT LOG COMMAND...: its exit status; 124 or 137 if it ran out of time
limited() {
  local limit=$1 log=$2
  shift 2
  if [ "$limit" -gt "$(seconds_left)" ]; then limit=$(seconds_left); fi
  if [ "$limit" -lt 1 ]; then echo "no time left" >"$log" && return 124; fi
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1
}

timed_out() { [ "$1" -eq 124 ] || [ "$1" -eq 137 ]; }

finish() {
  echo
  echo "step       what  time    note"
  printf '%s\n' "${SUMMARY[@]}"
  echo "logs and bench.csv: $OUT"
  exit "$STATUS"
}

importable() { "$PY" -c "import $1" >/dev/null 2>&1; }

arch=$("$PY" - 2>"$OUT/build.log" <<'PYTHON'
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"torch cannot be imported by {sys.executable}: {error}")
if not torch.cuda.is_available():
    sys.exit(f"no CUDA GPU: torch.cuda.is_available() is false (torch {torch.__version__})")
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}")
PYTHON
)
if [ -z "$arch" ]; then
  cat "$OUT/build.log" >&2
  record build FAIL "$SECONDS" "$(tail -n 1 "$OUT/build.log")"
  finish
fi

# Wheels carried along, for what this Python lacks.
missing() {
  "$PY" - <<'PYTHON'
import importlib
for name in ("cmake", "ninja", "pybind11", "setuptools"):
    try:
        module = importlib.import_module(name)
    except ImportError:
        print(name)
        continue
    if name == "setuptools" and int(module.__version__.split(".")[0]) < 77:
        print(name)
PYTHON
}

carried() {  # carried PACKAGE...: installs them from .whl, if it is there
  [ -d .whl ] && "$PY" -m pip install --quiet --no-index --find-links .whl "$@" >>"$OUT/build.log" 2>&1
}

# Where pip may not write, an environment over this Python's packages.
ensure_writable() {
  "$PY" -c 'import os, sys, sysconfig; sys.exit(not os.access(sysconfig.get_path("purelib"), os.W_OK))' && return 0
  local above
  above=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$PY" -m venv --system-site-packages build/gpu-venv >>"$OUT/build.log" 2>&1 || return 1
  PY=$ROOT/build/gpu-venv/bin/python
  # NOTE: a venv made from a venv sees the packages of the Python below both, but not those of the first.
  echo "$above" >"$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/above.pth"
}

build() {
  local begun=$SECONDS lacking code built name
  : >"$OUT/build.log"
  if ! importable pip; then
    record build FAIL 0 "$PY has no pip"
    return 1
  fi
  if ! ensure_writable; then
    record build FAIL $((SECONDS - begun)) "pip may not write here, and no venv could be made: build.log"
    return 1
  fi
  lacking=$(missing)
  # shellcheck disable=SC2086  # a list of names
  if [ -n "$lacking" ]; then carried $lacking; fi
  for name in pytest hypothesis click rich; do importable "$name" || carried "$name"; done
  lacking=$(missing | tr '\n' ' ')
  if [ -n "$lacking" ]; then
    record build FAIL $((SECONDS - begun)) "missing Python packages, here and in .whl: $lacking(setuptools >= 77)"
    return 1
  fi
  FRONT_CUDA=1 FRONT_CUDA_ARCHS=$arch limited "$BUILD" "$OUT/pip.log" \
    "$PY" -m pip install --verbose --no-index --no-build-isolation --no-deps -e .
  code=$?
  cat "$OUT/pip.log" >>"$OUT/build.log" && rm "$OUT/pip.log"
  if [ "$code" -ne 0 ]; then
    tail -n 25 "$OUT/build.log"
    if timed_out "$code"; then code="no time left"; else code="exit status $code"; fi
    record build FAIL $((SECONDS - begun)) "for sm_$arch: $code, build.log"
    return 1
  fi
  built=$("$PY" -c 'import front_kernels; print(front_kernels.build_info()["cuda"])' 2>&1 | tail -n 1)
  if [ "$built" != True ]; then
    record build FAIL $((SECONDS - begun)) "front_kernels.build_info()['cuda']: $built"
    return 1
  fi
  record build PASS $((SECONDS - begun)) "for sm_$arch"
}

# pytest_of STEP LIMIT FILE OPTIONS...
pytest_of() {
  local step=$1 limit=$2 file=$3 begun=$SECONDS code
  shift 3
  # tests/conftest.py needs hypothesis; these tests do not.
  importable hypothesis || set -- --noconftest "$@"
  # shellcheck disable=SC2086  # a list of options
  PYTHONPATH="$ROOT/tests:$PYTHONPATH" limited "$limit" "$OUT/$step.log" \
    "$PY" -m pytest "$file" "$@" -p no:cacheprovider $PYTEST_ARGS
  code=$?
  if [ "$code" -eq 0 ]; then
    record "$step" PASS $((SECONDS - begun)) "$(tail -n 1 "$OUT/$step.log")"
    return
  fi
  tail -n 40 "$OUT/$step.log" | cut -c 1-200
  if timed_out "$code"; then code="no time left"; else code="exit status $code"; fi
  record "$step" FAIL $((SECONDS - begun)) "$code, $step.log: $(tail -n 1 "$OUT/$step.log")"
}

tests() {
  local parallel=()
  if ! importable pytest; then
    record tests SKIP 0 "pytest is not installed, here or in .whl"
    small
    return
  fi
  # Most of the time of test_gpu_ops.py is one processor's, which compiles kernels; test_gpu_torch.py wants the GPU for
  # itself.
  if importable xdist; then parallel=(-n 12); fi
  pytest_of ops "$OPS" tests/gpu/test_gpu_ops.py "${parallel[@]}"
  pytest_of triton "$TRITON" tests/gpu/test_gpu_triton.py "${parallel[@]}"
  pytest_of spectral "$TRITON" tests/gpu/test_gpu_spectral.py "${parallel[@]}"
  pytest_of torch "$TORCH" tests/gpu/test_gpu_torch.py
}

small() {
  local begun=$SECONDS
  if limited "$SMALL" "$OUT/small.log" "$PY" bench/gpu_small.py; then
    record small PASS $((SECONDS - begun)) "$(tail -n 1 "$OUT/small.log")"
  else
    tail -n 10 "$OUT/small.log"
    record small FAIL $((SECONDS - begun)) "$(tail -n 1 "$OUT/small.log")"
  fi
}

# Both tools at once: most of their time is the host's.
sanitizer() {
  local begun=$SECONDS command tool pids=()
  command=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  if [ -z "$command" ]; then
    record sanitizer SKIP 0 "compute-sanitizer is not installed"
    return
  fi
  for tool in memcheck racecheck; do
    # NOTE: torch's allocator would hide what lies just outside of a tensor. Calls of the CUDA API that fail on purpose
    # (torch asks what a driver can do) are no errors.
    FRONT_ENGINE=cuda PYTORCH_NO_CUDA_MEMORY_CACHING=1 limited "$SMALL" "$OUT/$tool.log" \
      "$command" --tool "$tool" --report-api-errors no "$PY" bench/gpu_small.py &
    pids+=($!)
  done
  for tool in memcheck racecheck; do
    wait "${pids[0]}"
    judged "$tool" $? $((SECONDS - begun))
    pids=("${pids[@]:1}")
  done
}

# judged TOOL STATUS SECONDS: what the tool found is a failure; a machine that refuses it, or is too slow, is not
judged() {
  local tool=$1 code=$2 took=$3 log="$OUT/$1.log" found
  found=$(grep -E 'SUMMARY: ' "$log" | tail -n 1)
  found=${found#========= }
  if grep -q '^WRONG' "$log"; then
    record "$tool" FAIL "$took" "results differ from the CPU's, $tool.log"
  elif [ "$code" -eq 0 ] && [[ $found =~ SUMMARY:\ 0\ (errors|hazards) ]]; then
    record "$tool" PASS "$took" "$found"
  elif grep -qE '^=========.*(Invalid __|Misaligned|Race reported|hazard detected|out of bounds)' "$log"; then
    grep -E '^=========' "$log" | head -n 15
    record "$tool" FAIL "$took" "$found, $tool.log"
  elif timed_out "$code"; then
    record "$tool" SKIP "$took" "no time left, $tool.log"
  else
    record "$tool" SKIP "$took" "it did not run: $(grep -E 'not supported|[Ee]rror' "$log" | head -n 1), $tool.log"
  fi
}

bench() {
  local begun=$SECONDS code limit name
  for name in click rich; do
    importable "$name" && continue
    record bench FAIL 0 "missing Python package, here and in .whl: $name"
    return
  done
  limit=$(seconds_left)
  limited "$limit" "$OUT/bench.log" "$PY" -m front_kernels.bench --device cuda --set check --out "$OUT" \
    --deadline $((limit > 60 ? limit - 40 : 1))
  code=$?
  sed '/^results$/,$d' "$OUT/bench.log" | tail -n 30 | cut -c 1-200
  sed -n '/^results$/,$p' "$OUT/bench.log"
  if [ -f "$OUT/bench.csv" ]; then "$PY" bench/gpu_figures.py "$OUT/bench.csv"; fi
  limited 40 "$OUT/spectral_bench.log" "$PY" bench/gpu_spectral.py --out "$OUT" || code=$?
  cat "$OUT/spectral_bench.log"
  if [ "$code" -eq 0 ]; then
    record bench PASS $((SECONDS - begun)) "every result was right"
  elif timed_out "$code"; then
    record bench FAIL $((SECONDS - begun)) "no time left; bench.csv has what was measured"
  else
    record bench FAIL $((SECONDS - begun)) "exit status $code, bench.log"
  fi
}

if build; then
  tests
  sanitizer
  bench
else
  for step in tests sanitizer bench; do record "$step" SKIP 0 "the build failed"; done
fi
finish
