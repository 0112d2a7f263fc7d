#!/usr/bin/env bash
# Builds, tests and measures the CUDA kernels on a machine with a GPU. Needs no network: numpy,
# cupy, pytest and the build tools (scikit-build-core, pybind11, cmake or ninja) must be there.
#
#   bench/gpu.sh                    results go to bench/results
#   OUT=/some/folder bench/gpu.sh   or there
#   PYTHON=python3.12, SKIP="build tests sanitizer bench" (any of them)
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-bench/results}
PYTHON=${PYTHON:-python3}
SKIP=" ${SKIP:-} "
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export BYHAND_REQUIRE=cuda PYTHONUNBUFFERED=1
failed=()

wanted() { [[ "$SKIP" != *" $1 "* ]]; }
step() { # name, command...
    local name=$1 log="$OUT/gpu_$1.log" start=$SECONDS
    shift
    echo "== $name: $*"
    if "$@" >"$log" 2>&1; then
        echo "   done in $((SECONDS - start)) s"
    else
        failed+=("$name")
        echo "   FAILED after $((SECONDS - start)) s; the end of $log:"
        tail -n 25 "$log"
        return 1
    fi
}

echo "== machine"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "nvidia-smi: not run"
"${CUDACXX:-nvcc}" --version 2>/dev/null | tail -n 2 || echo "nvcc: not found"

if wanted build; then
    BYHAND=$(mktemp -d)
    # Installed beside the checkout, not over what the machine has.
    if step build env CMAKE_ARGS="-DBYHAND_CUDA=ON ${CMAKE_ARGS:-}" \
        "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index --target "$BYHAND" .; then
        export PYTHONPATH="$BYHAND${PYTHONPATH:+:$PYTHONPATH}"
    else
        exit 1
    fi
fi

if wanted tests; then
    step tests "$PYTHON" -m pytest -p no:cacheprovider tests/cuda -q && tail -n 1 "$OUT/gpu_tests.log"
else
    echo "== tests: not run"
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if wanted sanitizer && [ -n "$sanitizer" ]; then
    # Kernels of every kind on small shapes.
    for tool in memcheck racecheck synccheck; do
        step "$tool" timeout 300 "$sanitizer" --tool "$tool" --error-exitcode 9 \
            "$PYTHON" bench/gpu.py --small
    done
else
    echo "== compute-sanitizer: not run${sanitizer:+ (skipped)}"
fi

if wanted bench; then
    step bench "$PYTHON" bench/gpu.py --out "$OUT/gpu.json" && cat "$OUT/gpu_bench.log"
else
    echo "== bench: not run"
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo "all steps passed"
