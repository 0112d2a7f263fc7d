// Elementary functions on vectors of float32.
//
// Without fast-math: -inf, +inf and NaN give the results of the C library. The polynomials
// are minimax fits of the stated function on the stated interval, made for this file with Lawson's
// algorithm in high precision.
//
// Largest error over the whole range, in units in the last place (checked by
// tests/core/test_vecmath.py):
//
//   exp 2   log 2   tanh 3   erf 3       exp: -inf -> 0, overflow -> inf, underflow is gradual
//   expm1_negative 2 where x <= 0   sigmoid, silu 3 and softplus 2 where x >= -87
//   exp_score 3 where |x| < 16, 6 elsewhere; without a fused multiply-add 10 and 70
//   gelu, both forms: 8 where |x| <= 2; for larger |x| the relative error of a vanishing tail grows
//   with the argument of its exponential, as in any formula: there, and for the derivatives of gelu
//   and silu, the absolute error stays below 4 units in the last place of max(1, |x|).
#pragma once

#include "simd/vec.h"

namespace byhand {

template <int N>
BYHAND_INLINE Vec polynomial(Vec x, const float (&coefficients)[N]) {  // lowest power first
    Vec p = Vec::set(coefficients[N - 1]);
    for (int i = N - 2; i >= 0; --i) p = fma(p, x, Vec::set(coefficients[i]));
    return p;
}

// Smaller x are clamped to this one, for which scale2 gives 0 at once. e^x is 0 in float32 already
// for x <= -104, but there it would be rounded from a subnormal number, which takes a processor a
// hundred times as long.
constexpr float kExpLowest = -176.0f;  // e^-176 is near 2^-254

// e^x = 2^n (1 + small) with small = e^r - 1 and |r| <= log(2)/2. The clamps put the constant
// first, so that NaN passes through.
struct Exponential {
    Vec small, n;
    BYHAND_INLINE explicit Exponential(Vec x) {
        x = max(Vec::set(kExpLowest), min(Vec::set(89.0f), x));
        n = round(x * Vec::set(1.44269504f));
        // log(2) in two parts, the first short enough for n times it to be exact even without a
        // fused multiply-add.
        Vec r = fma(n, Vec::set(-0.693359375f), x);
        r = fma(n, Vec::set(2.12194440e-4f), r);
        const Vec q = polynomial(
            r, {0.49999994f, 0.166665211f, 0.0416682586f, 0.00836866815f, 0.0013821302f});
        small = fma(r * r, q, r);
    }
};

BYHAND_INLINE Vec exp(Vec x) {
    const Exponential e(x);
    return scale2(Vec::set(1.0f) + e.small, e.n);
}

// e^x - 1 for x <= 0, without the cancellation near 0: 2^n small + (2^n - 1).
BYHAND_INLINE Vec expm1_negative(Vec x) {
    const Exponential e(x);
    const Vec power = scale2(Vec::set(1.0f), e.n);
    return fma(power, e.small, power - Vec::set(1.0f));
}

// e^x for x <= 88 in two thirds of the operations of exp: no upper clamp, one constant for log(2)
// and a polynomial of one degree less. For sums of exponentials of scores minus their maximum,
// where imprecise terms are negligible. e^0 = 1.
BYHAND_INLINE Vec exp_score(Vec x) {
    x = max(Vec::set(kExpLowest), x);
    const Vec n = round(x * Vec::set(1.44269504f));
    const Vec r = fma(n, Vec::set(-0.693147182f), x);
    const Vec q = polynomial(r, {1.0f, 0.499992311f, 0.166671142f, 0.0418902002f, 0.00831251498f});
    return scale2(fma(q, r, Vec::set(1.0f)), n);
}

// log(1 + f) - f for 1 + f in [sqrt(1/2), sqrt(2)).
BYHAND_INLINE Vec log1p_curve(Vec f) {
    const Vec q = polynomial(f, {0.333333313f, -0.250008196f, 0.200012416f, -0.166234091f,
                                 0.14201583f, -0.131596178f, 0.127621874f, -0.076363638f});
    return f * f * fma(f, q, Vec::set(-0.5f));
}

// log x = e log 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
BYHAND_INLINE Vec log(Vec x) {
    const Mask tiny = x < Vec::set(1.17549435e-38f);  // subnormal (or out of the domain)
    const Vec scaled = select(tiny, x * Vec::set(8388608.0f), x);
    Vec e = exponent(scaled) - select(tiny, Vec::set(23.0f), Vec::zero());
    Vec m = mantissa(scaled);
    const Mask high = m >= Vec::set(1.41421356f);
    e = e + select(high, Vec::set(1.0f), Vec::zero());
    const Vec f = select(high, m * Vec::set(0.5f), m) - Vec::set(1.0f);
    Vec small = log1p_curve(f);
    small = fma(e, Vec::set(-2.12194440e-4f), small);
    Vec y = fma(e, Vec::set(0.693359375f), f + small);
    const Vec infinity = Vec::set(__builtin_inff());
    y = select(x < infinity, y, x);  // +inf and NaN are their own logarithm
    y = select(x == Vec::zero(), -infinity, y);
    return select(x < Vec::zero(), Vec::set(__builtin_nanf("")), y);
}

// log(1 + e^x) = max(x, 0) + log(1 + t) with t = e^-|x|, which neither overflows nor cancels. Where
// 1 + t >= sqrt(2), log(1 + t) = log 2 + log(1 + f) with f = (t - 1) / 2; elsewhere f = t, so that
// no digit of a small t is lost.
BYHAND_INLINE Vec softplus(Vec x) {
    const Vec t = exp(-abs(x));
    const Mask high = t >= Vec::set(0.414213562f);
    const Vec f = select(high, (t - Vec::set(1.0f)) * Vec::set(0.5f), t);
    const Vec small = log1p_curve(f) + select(high, Vec::set(-2.12194440e-4f), Vec::zero());
    const Vec log = select(high, Vec::set(0.693359375f), Vec::zero()) + (f + small);
    return max(Vec::zero(), x) + log;
}

BYHAND_INLINE Vec sigmoid(Vec x) { return Vec::set(1.0f) / (Vec::set(1.0f) + exp(-x)); }

// SiLU (Elfwing et al. 2018), x sigmoid(x).
BYHAND_INLINE Vec silu(Vec x) { return x / (Vec::set(1.0f) + exp(-x)); }

// s + x s (1 - s), where 1 - s = e s. Capping e and x keeps that product finite.
BYHAND_INLINE Vec silu_derivative(Vec x) {
    const Vec e = min(Vec::set(1e30f), exp(-x));
    const Vec s = Vec::set(1.0f) / (Vec::set(1.0f) + e);
    const Vec a = max(Vec::set(-100.0f), min(Vec::set(100.0f), x));
    return fma(a * s, e * s, s);
}

BYHAND_INLINE Vec tanh(Vec x) {
    const Vec a = abs(x), s = x * x;
    const Vec near = fma(x * s,
                         polynomial(s, {-0.333332807f, 0.133314088f, -0.0537370592f, 0.0206308626f,
                                        -0.00569625339f}),
                         x);
    const Vec one = Vec::set(1.0f), two = Vec::set(2.0f);
    const Vec far = one - two / (exp(two * a) + one);
    return select(a < Vec::set(0.625f), near, select(x < Vec::zero(), -far, far));
}

// The upper tail of the normal distribution without its exponential: exp(a^2 / 2) Phi(-a) for a >=
// 0, which falls smoothly from 1/2 like 1 / (a sqrt(2 pi)); hence a polynomial in t = 1 / (1 + 0.35
// a), as Abramowitz and Stegun do in 7.1.26.
BYHAND_INLINE Vec scaled_normal_tail(Vec a) {
    const Vec t = Vec::set(1.0f) / fma(a, Vec::set(0.35f), Vec::set(1.0f));
    return t * polynomial(t, {0.139621258f, 0.13986434f, 0.119815513f, 0.105574556f, -0.023262823f,
                              0.159390837f, -0.255899549f, 0.144059464f, -0.0291636139f});
}

// exp(-x^2 / 2). The rounding error of the square is corrected for; it would otherwise dominate.
BYHAND_INLINE Vec gaussian(Vec x) {
    const Vec a = min(Vec::set(16.0f), abs(x));
    const Vec s = a * a;
    const Vec lost = fma(a, a, -s);
    const Vec e = exp(s * Vec::set(-0.5f));
    return fma(e * Vec::set(-0.5f), lost, e);
}

BYHAND_INLINE Vec erf(Vec x) {
    const Vec a = abs(x), s = x * x;
    const Vec near = fma(x,
                         polynomial(s, {0.128379166f, -0.37612626f, 0.112835787f, -0.0268533472f,
                                        0.0051871622f, -0.00079978531f, 7.80690316e-05f}),
                         x);
    // erfc(a) = 2 Phi(-sqrt(2) a)
    const Vec tail =
        exp(max(Vec::set(kExpLowest), -s)) * scaled_normal_tail(a * Vec::set(1.41421356f));
    const Vec far = fma(Vec::set(-2.0f), tail, Vec::set(1.0f));
    return select(a < Vec::set(1.0f), near, select(x < Vec::zero(), -far, far));
}

// GELU (Hendrycks and Gimpel 2016), x Phi(x). The tanh form replaces Phi(x) by a logistic function
// of a cubic: (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3),
// which needs no tanh and does not cancel.
BYHAND_INLINE Vec gelu_tanh_exponential(Vec x) {  // exp(-2 u)
    const Vec slope = fma(x * x, Vec::set(-0.0713548163f), Vec::set(-1.59576912f));
    return exp(x * slope);
}

BYHAND_INLINE Vec gelu_tanh(Vec x) { return x / (Vec::set(1.0f) + gelu_tanh_exponential(x)); }

// With p = 1 / (1 + e): p + x p (1 - p) 2 u', and 1 - p = e p. Capping e keeps that product finite.
BYHAND_INLINE Vec gelu_tanh_derivative(Vec x) {
    const Vec e = min(Vec::set(1e30f), gelu_tanh_exponential(x));
    const Vec p = Vec::set(1.0f) / (Vec::set(1.0f) + e);
    const Vec s = min(Vec::set(1e4f), x * x);
    const Vec twice_slope = fma(s, Vec::set(0.214064449f), Vec::set(1.59576912f));
    const Vec a = max(Vec::set(-100.0f), min(Vec::set(100.0f), x));
    return fma(a * twice_slope, p * (e * p), p);
}

BYHAND_INLINE Vec gelu_erf(Vec x) {
    const Vec tail = gaussian(x) * scaled_normal_tail(abs(x));  // Phi(-|x|)
    return x * select(x < Vec::zero(), tail, Vec::set(1.0f) - tail);
}

BYHAND_INLINE Vec gelu_erf_derivative(Vec x) {  // Phi(x) + x phi(x)
    const Vec g = gaussian(x);
    const Vec tail = g * scaled_normal_tail(abs(x));
    const Vec a = max(Vec::set(-16.0f), min(Vec::set(16.0f), x));
    return fma(a * Vec::set(0.398942280f), g, select(x < Vec::zero(), tail, Vec::set(1.0f) - tail));
}

}  // namespace byhand
