// GELU, SiLU and their derivatives.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

struct Activated {
    float value, slope;
};

// min(x, most); NaN if x is NaN.
BYHAND_DEVICE float at_most(float x, float most) { return x > most ? most : x; }
BYHAND_DEVICE float at_least(float x, float least) { return x < least ? least : x; }

// gelu(x), for results stored as T: x Phi(x), or with `tanh` the approximation that replaces Phi by
// a logistic function p = 1 / (1 + e) of a cubic, which needs no tanh and avoids cancellation
// (Hendrycks and Gimpel 2016, section 2). Its derivative is p + x p (1 - p) times that of the
// cubic, with 1 - p = e p; e is capped, so that the product does not overflow.
template <class T>
BYHAND_DEVICE Activated gelu(float x, bool tanh) {
    const float square = x * x;
    if (tanh) {
        const float cubic = x * fmaf(square, -0.0713548163f, -1.59576912f);
        const float e = at_most(exp_for<T>(cubic), 1e30f), p = 1.0f / (1.0f + e);
        const float twice = fmaf(at_most(square, 1e4f), 0.214064449f, 1.59576912f);
        const float near = at_least(at_most(x, 100.0f), -100.0f);
        return {x * p, fmaf(near * twice, p * (e * p), p)};
    }
    const float below = 0.5f * erfcf(-0.707106781f * x);
    return {x * below, fmaf(0.398942280f * x, exp_for<T>(-0.5f * square), below)};
}

// silu(x) = x s with s = 1 / (1 + e), for results stored as T. Its derivative is s + x s (1 - s),
// where 1 - s = e s. Capping e and x keeps that product finite (Elfwing et al. 2018).
template <class T>
BYHAND_DEVICE Activated silu(float x) {
    const float e = at_most(exp_for<T>(-x), 1e30f), s = 1.0f / (1.0f + e);
    const float near = at_least(at_most(x, 100.0f), -100.0f);
    return {x * s, fmaf(near * s, e * s, s)};
}

}  // namespace byhand
