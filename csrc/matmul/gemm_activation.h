// The activation at the end of gemm.h's epilogue: on the part of a row of C that was just computed,
// which is still in the first-level cache.
#pragma once

#include <cstdint>

#include "matmul/gemm.h"
#include "simd/vecmath.h"

namespace byhand {

// The elements [at, at + count) of C and of the arrays of the epilogue.
template <Vec (*f)(Vec), Vec (*slope)(Vec)>
void activate_with(float* c, const Epilogue& e, std::int64_t at, std::int64_t count) {
    using Form = Epilogue::Activation;
    constexpr int W = Vec::width;
    c += at;
    float* const activated = e.activated + at;
    if (e.activation == Form::forward) {
        for (std::int64_t j = 0; j < count; j += W) {
            f(Vec::load(c + j, count - j)).store(activated + j, count - j);
        }
        return;
    }
    const float* const saved = e.saved + at;
    if (e.activation == Form::backward) {
        for (std::int64_t j = 0; j < count; j += W) {
            const Vec u = Vec::load(saved + j, count - j);
            f(u).store(activated + j, count - j);
            (Vec::load(c + j, count - j) * slope(u)).store(c + j, count - j);
        }
        return;
    }
    if (e.activation == Form::gated) {
        for (std::int64_t j = 0; j < count; j += W) {
            const Vec value = f(Vec::load(saved + j, count - j));
            (value * Vec::load(c + j, count - j)).store(activated + j, count - j);
        }
        return;
    }
    const float* const up = e.up + at;
    float* const dup = e.dup + at;
    for (std::int64_t j = 0; j < count; j += W) {
        const std::int64_t n = count - j;
        const Vec u = Vec::load(saved + j, n), value = f(u), factor = Vec::load(up + j, n);
        const Vec d = Vec::load(c + j, n);
        (value * factor).store(activated + j, n);
        (d * value).store(dup + j, n);
        (d * factor * slope(u)).store(c + j, n);
    }
}

inline void activate(float* c, const Epilogue& e, std::int64_t at, std::int64_t count) {
    using Function = Epilogue::Function;
    switch (e.function) {
        case Function::gelu:
            return activate_with<gelu_erf, gelu_erf_derivative>(c, e, at, count);
        case Function::gelu_tanh:
            return activate_with<gelu_tanh, gelu_tanh_derivative>(c, e, at, count);
        case Function::silu:
            return activate_with<silu, silu_derivative>(c, e, at, count);
    }
}

}  // namespace byhand
