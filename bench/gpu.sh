#!/usr/bin/env bash
# Builds, checks and measures the CUDA kernels on a machine with a GPU. It needs no network and no
# git, but numpy, cupy, ml_dtypes, pytest and the build tools (scikit-build-core, pybind11, cmake,
# ninja) must be installed; a step that needs something else that is missing fails, and the next
# one goes on.
usage="\
bench/gpu.sh first      what to run on a GPU first: Hopper's products, the kernels against the
                        reference, training steps of gpt2 beside PyTorch, a few kernels timed
bench/gpu.sh check      all tests that need a GPU, those against the same kernels on the CPU too
bench/gpu.sh bench      all kernels timed beside a plain copy and PyTorch
bench/gpu.sh train      training steps of gpt2 and baby beside PyTorch; with DATA, a text, baby is
                        also trained on it
bench/gpu.sh sanitize   every kernel under compute-sanitizer
bench/gpu.sh plan [PART]      the steps of a part, first by default, and the seconds planned for each
bench/gpu.sh rehearse [PART]  the same steps on a machine without a GPU: small sizes, on the kernels
                              for the CPU; its figures measure nothing

A part takes at most LIMIT seconds, 465 by default. A step may use what the steps before it left
over, but not the time planned for later ones; where less time is left, all are shortened, except
that the build may take half of it.

Everything is written to the folder OUT (build/gpu/results), as it comes: machine.txt, log.txt,
steps.jsonl, tests.jsonl, and for bench/results a folder named after the GPU. PYTHON names the
interpreter. BUILD (build/gpu) is where the package is built for the GPU that is there; SITE is a
folder in which it is built already. COMMIT is what is measured, where git cannot say."
set -uo pipefail
cd "$(dirname "$0")/.." || exit

mode=run part=${1:-}
case $part in plan | rehearse) mode=$part part=${2:-first} ;; esac
case $part in
    first | check | bench | train | sanitize) ;;
    help | -h | --help) echo "$usage" && exit 0 ;;
    *) echo "$usage" >&2 && exit 2 ;;
esac
PYTHON=${PYTHON:-python3} LIMIT=${LIMIT:-465} SITE=${SITE:-} BUILD=${BUILD:-build/gpu}
case $LIMIT in '' | *[!0-9]* | 0*)
    echo "LIMIT must be a positive number of seconds, got $LIMIT" >&2
    exit 2
    ;;
esac
[ "$mode" = rehearse ] && OUT=${OUT:-$BUILD/rehearsal}
OUT=${OUT:-$BUILD/results}

# --- The steps of the parts ----------------------------------------------------------------------

build() { # name, planned seconds, package, options...: builds into a folder of its own
    local name=$1 planned=$2 package=$3
    shift 3
    [ -n "$SITE" ] && return # the packages of the machine stay as they are
    step "$name" "$planned" "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index \
        --upgrade --target "$BUILD/site" -C "build-dir=$BUILD/$name" "$@" "$package"
}

tests() { # name, planned seconds, workers, files...
    local name=$1 planned=$2 workers=$3 which=(-m gpu)
    shift 3
    [ "$mode" = rehearse ] &&
        which=(-m "not gpu and not deep" -k "products or (test_samples and on_cpu and softmax)")
    local parallel=(-n "$workers" --dist worksteal --max-worker-restart 0)
    [ "$xdist" = no ] && parallel=()
    step "$name" "$planned" "$PYTHON" -m pytest -q -rfE -o addopts=--strict-markers \
        -o "cache_dir=$BUILD/pytest" -p bench.pytest_rows --maxfail=10 \
        ${parallel[@]+"${parallel[@]}"} "${which[@]}" "$@"
}

train() { # preset, planned seconds, options...
    local preset=$1 planned=$2
    shift 2
    step "train_$preset" "$planned" "$PYTHON" -m bench.models.gpu_train "$preset" --out "$OUT" \
        ${dry[@]+"${dry[@]}"} "$@"
}

kernels() { # planned seconds, options...
    local planned=$1
    shift
    step bench "$planned" "$PYTHON" -m bench.gpu bench --out "$OUT" --seconds %left \
        ${dry[@]+"${dry[@]}"} "$@"
}

steps() {
    build build 90 . -C cmake.define.BYHAND_CUDA=ON || stop # nothing can run without it
    case $part in
        first)
            tests hopper 40 "$((workers > 4 ? 4 : workers))" tests/cuda/test_hopper.py
            tests kernels 80 "$workers" tests/cuda/test_primitives.py tests/cuda/test_kernels.py \
                tests/cuda/test_cublaslt.py tests/ops
            train gpt2 150
            kernels 80 --dtypes bfloat16 --ops attention matmul linear layernorm
            ;;
        check)
            build emulator 90 tests/cuda_on_cpu
            tests tests 270 "$workers" tests/cuda tests/ops
            ;;
        bench) kernels 360 ;;
        train)
            train gpt2 170
            train baby 160 ${DATA:+--data "$DATA"}
            ;;
        sanitize)
            for tool in memcheck racecheck synccheck; do
                local command=("$sanitizer" --tool "$tool" --error-exitcode 9)
                [ "$mode" = rehearse ] && command=()
                step "$tool" 115 ${command[@]+"${command[@]}"} "$PYTHON" -m bench.gpu run \
                    ${dry[@]+"${dry[@]}"}
            done
            ;;
    esac
}

# --- How a step is run ---------------------------------------------------------------------------

total=0 failed=() planning=yes

step() { # name, planned seconds, command...
    local name=$1 planned=$2
    shift 2
    if [ "$planning" = yes ]; then
        total=$((total + planned))
        [ "$mode" = plan ] && printf '%-12s %3d s, to %3d s: %s\n' "$name" "$planned" "$total" "$*"
        return 0
    fi
    ahead=$((ahead - planned))
    local start=$SECONDS left=$((LIMIT - SECONDS)) status=0 lines
    local most=$((left - ahead)) needed=$((planned + ahead))
    [ "$needed" -gt "$left" ] && most=$((left * planned / needed))
    [ "$name" = build ] && [ "$most" -lt $((left / 2)) ] && most=$((left / 2))
    echo "== $name, at most $most s: $*" | tee -a "$OUT/log.txt"
    lines=$(wc -l < "$OUT/log.txt")
    if [ "$most" -lt 1 ]; then
        echo "not run: the time was up" | tee -a "$OUT/log.txt"
        status=124
    elif ! command -v "$1" > /dev/null; then
        echo "not run: $1 was not found" | tee -a "$OUT/log.txt"
        status=127
    else
        # An interrupt lets the program report what it has; ten seconds later it is killed.
        timeout -s INT -k 10 "$most" "${@//%left/$((most > 20 ? most - 10 : most))}" \
            >> "$OUT/log.txt" 2>&1
        status=$?
        tail -n "+$((lines + 1))" "$OUT/log.txt" | tail -n "$((status == 0 ? 5 : 25))"
    fi
    printf '{"step": "%s", "planned": %d, "seconds": %d, "status": %d}\n' \
        "$name" "$planned" "$((SECONDS - start))" "$status" >> "$OUT/steps.jsonl"
    if [ "$status" -ne 0 ]; then
        failed+=("$name")
        echo "   FAILED with status $status after $((SECONDS - start)) s"
    else
        echo "   done in $((SECONDS - start)) s"
    fi
    return "$status"
}

stop() { # the end of a part
    echo "took $SECONDS s of $LIMIT s; planned: $total s"
    if [ ${#failed[@]} -gt 0 ]; then
        echo "FAILED: ${failed[*]}"
        exit 1
    fi
    echo "all steps passed"
    [ "$mode" = rehearse ] && echo "a rehearsal on the CPU: nothing here was measured on a GPU"
    exit 0
}

machine() { # the circumstances; what is missing is said
    date -u +%FT%TZ
    echo "commit ${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}"
    uname -srm
    echo "$cores cores"
    nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader
    nvidia-smi --query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.draw,temperature.gpu --format=csv
    "${CUDACXX:-nvcc}" --version | tail -n 2
    "$PYTHON" - << 'END'
import platform
from importlib.metadata import PackageNotFoundError, version

print("python", platform.python_version())
for name in ("numpy", "cupy-cuda13x", "ml_dtypes", "torch", "safetensors", "rich", "hypothesis",
             "pytest", "pytest-xdist", "pybind11", "scikit-build-core", "cmake", "ninja"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        print(name, "is not installed")
END
}

cores=$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)
# The reference of a test takes longer than its kernel: most cores compute references. Each worker
# is a process with a CUDA context of half a gigabyte.
workers=$((cores > 4 ? cores * 3 / 4 : cores))
xdist=yes dry=()
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
[ "$mode" = rehearse ] && dry=(--on-cpu)
[ "$mode" = plan ] && echo "the plan of $part; its seconds are allotted, not measured"
steps
if [ "$mode" = plan ]; then
    echo "planned: $total s; the limit: $LIMIT s"
    exit 0
fi

mkdir -p "$OUT" "$BUILD"
OUT=$(cd "$OUT" && pwd) BUILD=$(cd "$BUILD" && pwd)
rm -f "$OUT/steps.jsonl" "$OUT/tests.jsonl" "$OUT/log.txt"
export PYTHONUNBUFFERED=1 TEST_ROWS=$OUT/tests.jsonl
export PYTHONPATH="${SITE:-$BUILD/site}${PYTHONPATH:+:$PYTHONPATH}"
[ "$mode" = run ] && export BYHAND_REQUIRE=cuda
machine > "$OUT/machine.txt" 2>&1
cat "$OUT/machine.txt"
: > "$OUT/log.txt"
"$PYTHON" -c "import xdist" 2> /dev/null || xdist=no
planning=no ahead=$total
steps
stop
