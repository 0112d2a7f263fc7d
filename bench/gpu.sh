#!/usr/bin/env bash
# Builds, checks and measures the CUDA kernels on a machine with a GPU. It needs no network, but numpy,
# cupy, ml_dtypes, pytest and the build tools (scikit-build-core, pybind11, cmake, ninja) must be
# installed; a step that needs something else that is missing says "not run".
usage="\
bench/gpu.sh check   the kernels against the reference and against themselves on the CPU, twice for
                     equal bits, then under compute-sanitizer
bench/gpu.sh bench   times beside a plain copy and PyTorch: \$OUT/<gpu>/kernels.json and .md
bench/gpu.sh train   training steps of gpt2 and baby beside PyTorch: \$OUT/<gpu>/train_*.json; with DATA,
                     a text, baby is also trained on it

Each takes less than 8 minutes (LIMIT, in seconds). OUT is bench/results by default; PYTHON names the
interpreter; BUILD is where the package is built, build/gpu by default: the second part reuses it.
Logs go to \$BUILD/logs, or to \$LOGS."
set -uo pipefail
cd "$(dirname "$0")/.." || exit

part=${1:-}
case $part in
    check | bench | train) ;;
    help | -h | --help) echo "$usage" && exit 0 ;;
    *) echo "$usage" >&2 && exit 2 ;;
esac
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-470}
mkdir -p "${OUT:=bench/results}" "${BUILD:=build/gpu}"
OUT=$(cd "$OUT" && pwd) BUILD=$(cd "$BUILD" && pwd)
mkdir -p "${LOGS:=$BUILD/logs}"
LOGS=$(cd "$LOGS" && pwd)
export BYHAND_REQUIRE=cuda PYTHONUNBUFFERED=1 PYTHONPATH="$BUILD/site${PYTHONPATH:+:$PYTHONPATH}"
failed=()

step() { # name, seconds at most, command...: runs it, its output in a log, the last line printed
    local name=$1 most=$2 log=$LOGS/$1.log start=$SECONDS left=$((LIMIT - SECONDS))
    shift 2
    if [ "$left" -le 0 ]; then
        echo "== $name: not run, the time was up"
        failed+=("$name")
        return 1
    fi
    echo "== $name: $*"
    if timeout "$((left < most ? left : most))" "$@" > "$log" 2>&1; then
        tail -n 1 "$log"
        echo "   done in $((SECONDS - start)) s"
    else
        failed+=("$name")
        echo "   FAILED after $((SECONDS - start)) s; the end of $log:"
        tail -n 25 "$log"
        return 1
    fi
}

echo "== machine"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader ||
    echo "nvidia-smi: not found"
"${CUDACXX:-nvcc}" --version 2> /dev/null | tail -n 2 || echo "nvcc: not found"

# Into a folder of its own: the packages of the machine stay as they are.
step build 300 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index --upgrade \
    --target "$BUILD/site" -C build-dir="$BUILD/cmake" -C cmake.define.BYHAND_CUDA=ON . || exit 1

if [ "$part" = check ]; then
    step tests 300 "$PYTHON" -m pytest -p no:cacheprovider -q -m gpu tests/cuda tests/ops
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
    for tool in memcheck racecheck synccheck; do
        if [ -n "$sanitizer" ]; then
            step "$tool" 150 "$sanitizer" --tool "$tool" --error-exitcode 9 \
                "$PYTHON" -m bench.gpu run
        else
            echo "== $tool: not run, compute-sanitizer was not found"
        fi
    done
elif [ "$part" = train ]; then
    for preset in baby gpt2; do
        data=()
        [ "$preset" = baby ] && [ -n "${DATA:-}" ] && data=(--data "$DATA")
        step "train_$preset" 300 "$PYTHON" -m bench.models.gpu_train "$preset" --out "$OUT" "${data[@]}" &&
            cat "$LOGS/train_$preset.log"
    done
else
    left=$((LIMIT - SECONDS - 30))
    step bench 480 "$PYTHON" -m bench.gpu bench --out "$OUT" --minutes "$((left / 60))" &&
        cat "$LOGS/bench.log"
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo "all steps passed"
