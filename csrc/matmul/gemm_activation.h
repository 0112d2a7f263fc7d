// The activation at the end of gemm.h's epilogue: on the tile of C that was just computed, which is
// still in the first-level cache.
#pragma once

#include <cstdint>

#include "matmul/gemm.h"
#include "matmul/gemm_kernel.h"
#include "simd/vecmath.h"

namespace byhand {

// Rows of a tile that lies in row-major matrices: element (i, j) is at begin + i * stride + j.
struct TileRows {
    std::int64_t begin, stride, rows, cols;
};

// Calls body(at, n) for each vector: n lanes from element `at`. Rows of a whole panel are one loop,
// before which the compiler loads the constants of `body`: as many instructions as for a vector.
template <class Body>
BYHAND_INLINE void for_tile(const TileRows& t, Body&& body) {
    if (t.cols == kPanel) {
        for (std::int64_t i = 0; i < t.rows; ++i) {
            BYHAND_UNROLL
            for (int v = 0; v < kPanelVecs; ++v) {
                body(t.begin + i * t.stride + v * Vec::width, std::int64_t{Vec::width});
            }
        }
        return;
    }
    for (std::int64_t i = 0; i < t.rows; ++i) {
        const std::int64_t at = t.begin + i * t.stride;
        for (std::int64_t j = 0; j < t.cols; j += Vec::width) body(at + j, t.cols - j);
    }
}

template <Vec (*f)(Vec), Vec (*slope)(Vec)>
void activate_with(float* c, const Epilogue& e, const TileRows& tile) {
    using Form = Epilogue::Activation;
    float *const activated = e.activated, *const dup = e.dup;
    const float *const saved = e.saved, *const up = e.up;
    if (e.activation == Form::forward) {
        for_tile(tile, [=](std::int64_t at, std::int64_t n) __attribute__((always_inline)) {
            f(Vec::load(c + at, n)).store(activated + at, n);
        });
    } else if (e.activation == Form::backward) {
        for_tile(tile, [=](std::int64_t at, std::int64_t n) __attribute__((always_inline)) {
            const Vec u = Vec::load(saved + at, n);
            f(u).store(activated + at, n);
            (Vec::load(c + at, n) * slope(u)).store(c + at, n);
        });
    } else if (e.activation == Form::gated) {
        for_tile(tile, [=](std::int64_t at, std::int64_t n) __attribute__((always_inline)) {
            const Vec value = f(Vec::load(saved + at, n));
            (value * Vec::load(c + at, n)).store(activated + at, n);
        });
    } else {
        for_tile(tile, [=](std::int64_t at, std::int64_t n) __attribute__((always_inline)) {
            const Vec u = Vec::load(saved + at, n), value = f(u), factor = Vec::load(up + at, n);
            const Vec d = Vec::load(c + at, n);
            (value * factor).store(activated + at, n);
            (d * value).store(dup + at, n);
            (d * factor * slope(u)).store(c + at, n);
        });
    }
}

inline void activate(float* c, const Epilogue& e, const TileRows& tile) {
    using Function = Epilogue::Function;
    switch (e.function) {
        case Function::gelu:
            return activate_with<gelu_erf, gelu_erf_derivative>(c, e, tile);
        case Function::gelu_tanh:
            return activate_with<gelu_tanh, gelu_tanh_derivative>(c, e, tile);
        case Function::silu:
            return activate_with<silu, silu_derivative>(c, e, tile);
    }
}

}  // namespace byhand
