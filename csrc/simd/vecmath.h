// Elementary functions on vectors of float32.
//
// Without fast-math: -inf, +inf and NaN give the results of the C library. The polynomials
// are minimax fits of the stated function on the stated interval, made for this file with the
// algorithms of Remez and Lawson in high precision; after one coefficient had been rounded to a
// float, the others were fitted again.
//
// Largest error over the whole range, in units in the last place (checked by
// tests/core/test_vecmath.py):
//
//   exp 2   log 2   tanh 3               exp: -inf -> 0, overflow -> inf, underflow is gradual
//   exp_normal 2 where -87 <= x <= 88, as expm1_negative where x <= 0
//   sigmoid, silu 3 and softplus 2 where x >= -87
//   exp_score 3 where |x| < 16, 6 where -87 <= x <= 88; without a fused multiply-add 10 and 70
//   gelu, both forms: 8 where |x| <= 2; for smaller x the relative error of the vanishing tail
//   grows to 50 (exact form) and 140 (tanh form) at -5, and where the tail is less than 2e-8 it may
//   be 0. There, and for the derivatives of gelu and silu, the absolute error stays below 4 units
//   in the last place of max(1, |x|).
#pragma once

#include "simd/vec.h"
#include "simd/vecmath_tables.h"

namespace byhand {

template <int N>
BYHAND_INLINE Vec polynomial(Vec x, const float (&coefficients)[N]) {  // lowest power first
    Vec p = Vec::set(coefficients[N - 1]);
    for (int i = N - 2; i >= 0; --i) p = fma(p, x, Vec::set(coefficients[i]));
    return p;
}

// Added to a number p with |p| < 2^22, this rounds it to an integer n, because floats from 2^23 to
// 2^24 are integers; and the lower bits of the sum are n + 127, which is the exponent of 2^n.
constexpr float kRounder = 12582912.0f + 127.0f;  // 1.5 * 2^23, and the bias

// 2^r for |r| <= 1/2, with odd and even powers apart, so that fewer operations wait for each other.
BYHAND_INLINE Vec exp2_fraction(Vec r) {
    const Vec s = r * r;
    const Vec odd = polynomial(s, {0.693147242f, 0.0555027239f, 0.00134182384f});
    const Vec even = polynomial(s, {0.240226552f, 0.00961706415f, 0.000158188254f});
    return fma(r, fma(r, even, odd), Vec::set(1.0f));
}

// 2^p for -127.5 < p < 128.5, but 0 below 2^-126.5 and inf above 2^127.5.
BYHAND_INLINE Vec exp2(Vec p) {
    const Vec t = p + Vec::set(kRounder);
    return exp2_fraction(p - (t - Vec::set(kRounder))) * power_of_2(t);
}

// e^x = 2^n e^r with |r| <= log(2)/2. The clamps put the constant first, so that NaN passes
// through.
struct Exponential {
    Vec n, r, power;  // power is 2^n for n >= -126, 0 for n = -127 and inf for n = 128
    BYHAND_INLINE Exponential(Vec x, float lowest, float highest) {
        x = max(Vec::set(lowest), min(Vec::set(highest), x));
        const Vec t = fma(x, Vec::set(1.44269504f), Vec::set(kRounder));
        n = t - Vec::set(kRounder);
        power = power_of_2(t);
        // log(2) in two parts, the first short enough for n times it to be exact even without a
        // fused multiply-add.
        r = fma(n, Vec::set(-0.693359375f), x);
        r = fma(n, Vec::set(2.12194440e-4f), r);
    }
    BYHAND_INLINE Vec small() const {  // e^r - 1
        const Vec q = polynomial(
            r, {0.49999994f, 0.166665211f, 0.0416682586f, 0.00836866815f, 0.0013821302f});
        return fma(r * r, q, r);
    }
};

// exp_normal and exp_score are 0 here, and below.
constexpr float kExpNone = -88.0f;

// e^x. Below -176 it is 0 at once: e^x is 0 in float32 already for x <= -104, but there it would be
// rounded from a subnormal number, which takes a processor a hundred times as long.
BYHAND_INLINE Vec exp(Vec x) {
    const Exponential e(x, -176.0f, 89.0f);  // e^-176 is near 2^-254
    return scale2(Vec::set(1.0f) + e.small(), e.n);
}

// e^x where it is a normal number, in fewer operations than exp: 0 where it is less than 2^-126.5,
// and inf where it is greater than 2^127.5.
BYHAND_INLINE Vec exp_normal(Vec x) {
    const Exponential e(x, kExpNone, 89.0f);
    return (Vec::set(1.0f) + e.small()) * e.power;
}

// e^x - 1 for x <= 0, without the cancellation near 0: 2^n small + (2^n - 1).
BYHAND_INLINE Vec expm1_negative(Vec x) {
    const Exponential e(x, kExpNone, 0.0f);
    return fma(e.power, e.small(), e.power - Vec::set(1.0f));
}

// e^x for x <= 88 in two thirds of the operations of exp_normal: no upper clamp, one constant for
// log(2) and a polynomial of one degree less; 0 below 2^-126.5. For sums of exponentials of scores
// minus their maximum, where imprecise terms are negligible. e^0 = 1.
BYHAND_INLINE Vec exp_score(Vec x) {
    x = max(Vec::set(kExpNone), x);
    const Vec t = fma(x, Vec::set(1.44269504f), Vec::set(kRounder));
    const Vec r = fma(t - Vec::set(kRounder), Vec::set(-0.693147182f), x);
    const Vec q = polynomial(r, {1.0f, 0.499992311f, 0.166671142f, 0.0418902002f, 0.00831251498f});
    return fma(q, r, Vec::set(1.0f)) * power_of_2(t);
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
    const Vec t = exp_normal(-abs(x));
    const Mask high = t >= Vec::set(0.414213562f);
    const Vec f = select(high, (t - Vec::set(1.0f)) * Vec::set(0.5f), t);
    const Vec small = log1p_curve(f) + select(high, Vec::set(-2.12194440e-4f), Vec::zero());
    const Vec log = select(high, Vec::set(0.693359375f), Vec::zero()) + (f + small);
    return max(Vec::zero(), x) + log;
}

BYHAND_INLINE Vec sigmoid(Vec x) { return Vec::set(1.0f) / (Vec::set(1.0f) + exp_normal(-x)); }

// SiLU (Elfwing et al. 2018), x sigmoid(x).
BYHAND_INLINE Vec silu(Vec x) { return x / (Vec::set(1.0f) + exp_normal(-x)); }

// s + x s (1 - s), where 1 - s = e s. Capping e and x keeps that product finite.
BYHAND_INLINE Vec silu_derivative(Vec x) {
    const Vec e = min(Vec::set(1e30f), exp_normal(-x));
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
    const Vec far = one - two / (exp_normal(two * a) + one);
    return select(a < Vec::set(0.625f), near, select(x < Vec::zero(), -far, far));
}

#ifdef BYHAND_LOOKUP
// The tails of the two forms of GELU at a = |x|: polynomials of degree 6 around the nearest of 15
// points. The last cell of a table is 0; as far as there a is clamped, so that a times the tail is
// finite.
struct Tail {
    Vec a, tail;
    BYHAND_INLINE Tail(const float (&table)[7][16], Vec x) {
        a = min(Vec::set(15.0f * kTailStep), abs(x));
        const Vec t = fma(a, Vec::set(1.0f / kTailStep), Vec::set(kRounder - 127.0f));
        const Vec u = fma(t - Vec::set(kRounder - 127.0f), Vec::set(-kTailStep), a);
        tail = lookup(table[6], t);
        BYHAND_UNROLL
        for (int i = 5; i >= 0; --i) tail = fma(tail, u, lookup(table[i], t));
    }
};
BYHAND_INLINE Tail normal_tail(Vec x) { return {kNormalTail, x}; }
BYHAND_INLINE Tail logistic_tail(Vec x) { return {kLogisticTail, x}; }
#else
struct Tail {
    Vec a, tail;
};

// Phi(-a), the tail of the normal distribution, at a = |x|; beyond 5.5, where it is less than 2e-8,
// it is 0, and a is clamped, so that a times the tail is finite. Its logarithm is close to a
// polynomial, from which the integral part is subtracted before the last addition is rounded: that
// error would be the largest.
BYHAND_INLINE Tail normal_tail(Vec x) {
    const Vec far = Vec::set(5.5f), all = abs(x), a = min(far, all), s = a * a;
    const Vec odd = polynomial(
        s, {-1.15110719f, -0.0525228158f, -9.14577919e-05f, 6.48739661e-05f, 6.9352080e-07f});
    const Vec even = polynomial(s, {-1.0f, -0.459193766f, 0.00706356810f, -0.000237643733f,
                                    -9.0870096e-06f, -2.27744048e-08f});
    const Vec t = fma(a, odd, even) + Vec::set(kRounder);
    const Vec r = fma(a, odd, even - (t - Vec::set(kRounder)));
    return {a, select(all > far, Vec::zero(), exp2_fraction(r) * power_of_2(t))};
}

// 1 / (1 + exp(2 u)) with u = sqrt(2 / pi) (a + 0.044715 a^3) at a = |x|, clamped where it is near
// 2^-126.
BYHAND_INLINE Tail logistic_tail(Vec x) {
    const Vec a = min(Vec::set(10.0f), abs(x));
    const Vec e = exp2(a * fma(a * a, Vec::set(-0.102943243f), Vec::set(-2.30220819f)));
    return {a, e / (Vec::set(1.0f) + e)};
}
#endif

// GELU (Hendrycks and Gimpel 2016) is x Phi(x) = max(0, x) - |x| Phi(-|x|). Its derivative Phi(x) +
// x phi(x) is below(|x|) for negative x and 1 - below(|x|) for positive x, with below(a) = Phi(-a)
// - a phi(a).
BYHAND_INLINE Vec gelu_slope(Vec x, Vec below) {
    return select(x < Vec::zero(), below, Vec::set(1.0f) - below);
}

BYHAND_INLINE Vec gelu_erf(Vec x) {
    const Tail t = normal_tail(x);
    return fma(-t.a, t.tail, max(Vec::zero(), x));
}

// below(a) = Phi(-a) (1 - a h(a)), where h(a) = phi(a) / Phi(-a) is close to a polynomial.
BYHAND_INLINE Vec gelu_erf_derivative(Vec x) {
    const Tail t = normal_tail(x);
    const Vec s = t.a * t.a;
    const Vec odd = polynomial(s, {-0.797890246f, -0.109405264f, -0.000875818f, 0.00014392986f});
    const Vec even =
        polynomial(s, {1.0f, -0.636536777f, 0.0200200565f, -0.00057958806f, -1.12620787e-05f});
    return gelu_slope(x, t.tail * fma(t.a, odd, even));
}

// The tanh form replaces Phi(x) by a logistic function of a cubic: (1 + tanh u) / 2 = 1 / (1 +
// exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which needs no tanh and does not cancel.
BYHAND_INLINE Vec gelu_tanh(Vec x) {
    const Tail t = logistic_tail(x);
    return fma(-t.a, t.tail, max(Vec::zero(), x));
}

BYHAND_INLINE Vec gelu_tanh_derivative(Vec x) {  // its density is tail (1 - tail) 2 u'
    const Tail t = logistic_tail(x);
    const Vec rest = Vec::set(1.0f) - t.tail;
    const Vec twice_slope = fma(t.a * t.a, Vec::set(0.214064449f), Vec::set(1.59576912f));
    return gelu_slope(x, t.tail * fma(-(t.a * twice_slope), rest, Vec::set(1.0f)));
}

}  // namespace byhand
