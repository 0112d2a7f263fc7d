"""The vectorised draws of csrc/random/philox_words.h are those of philox(), group by group."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
FLAGS = {"cpu_avx2": ("-mavx2",), "cpu_avx512": AVX512, "cpu_avx512bf16": AVX512}
PROGRAM = """
#include <cstdio>
#include "random/philox_words.h"
int main() {
    const std::uint64_t seed = 0x123456789abcdefull, offset = 0xfedcba9876543210ull;
    // Ordinary ones; and numbers whose low half overflows on the way.
    for (std::uint64_t first : {0ull, 5ull, 0xfffffff0ull, 0x1fffffffdull, ~0ull - 7}) {
        for (int n : {1, 7, 8, 63, 64, 65, 127, 1000}) {
            std::uint16_t bits[1024];
            byhand::philox_bits(bits, n, seed, first, offset);
            for (int i = 0; i < n; ++i) {
                if (bits[i] == byhand::philox(seed, first + i / 8, offset).bits(i % 8)) continue;
                std::printf("element %d of %d from group %llx", i, n, (unsigned long long)first);
                return 1;
            }
        }
    }
}
"""


def test_every_element_has_its_bits(native, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler was found")
    source, program = tmp_path / "philox.cpp", tmp_path / "philox"
    source.write_text(PROGRAM, encoding="utf-8")
    options = ["-std=c++17", "-O2", *FLAGS.get(native, ()), f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *options, str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
