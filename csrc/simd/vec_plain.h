// Vec without instructions of a specific processor: 4 floats in the vector type that g++ and
// clang share, which they map to whatever the target has (SSE2 on a plain x86-64) or to scalars.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace byhand {

struct Mask {
    typedef std::int32_t Lanes __attribute__((vector_size(16)));
    Lanes m;
    static BYHAND_INLINE Mask first(std::int64_t n) {
        const std::int32_t count = static_cast<std::int32_t>(n >= 4 ? 4 : n <= 0 ? 0 : n);
        return {Lanes{0, 1, 2, 3} < count};
    }
    static BYHAND_INLINE Mask load(const bool* p, std::int64_t n) {
        Lanes lanes = {0, 0, 0, 0};
        for (int i = 0; i < 4 && i < n; ++i) lanes[i] = p[i];
        return {lanes != 0};
    }
};

BYHAND_INLINE Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
BYHAND_INLINE Mask operator|(Mask a, Mask b) { return {a.m | b.m}; }
BYHAND_INLINE Mask operator!(Mask a) { return {~a.m}; }
BYHAND_INLINE bool any(Mask a) { return (a.m[0] | a.m[1] | a.m[2] | a.m[3]) != 0; }
BYHAND_INLINE bool all(Mask a) { return (a.m[0] & a.m[1] & a.m[2] & a.m[3]) != 0; }

struct Vec {
    static constexpr int width = 4;
    typedef float Lanes __attribute__((vector_size(16)));
    Lanes v;

    static BYHAND_INLINE Vec zero() { return {Lanes{0.0f, 0.0f, 0.0f, 0.0f}}; }
    static BYHAND_INLINE Vec set(float s) { return {Lanes{s, s, s, s}}; }
    static BYHAND_INLINE Vec load(const float* p) {
        Vec r;
        std::memcpy(&r.v, p, sizeof(r.v));
        return r;
    }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n) { return load(p, n, 0.0f); }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n, float rest) {
        if (n >= width) return load(p);
        return {Lanes{n > 0 ? p[0] : rest, n > 1 ? p[1] : rest, n > 2 ? p[2] : rest, rest}};
    }
    BYHAND_INLINE void store(float* p) const { std::memcpy(p, &v, sizeof(v)); }
    BYHAND_INLINE void store(float* p, std::int64_t n) const {
        if (n >= width) return store(p);
        if (n > 0) p[0] = v[0];
        if (n > 1) p[1] = v[1];
        if (n > 2) p[2] = v[2];
    }
    BYHAND_INLINE void stream(float* p) const { store(p); }
    BYHAND_INLINE float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
    BYHAND_INLINE float max() const {
        const float a = v[0] > v[2] ? v[0] : v[2];
        const float b = v[1] > v[3] ? v[1] : v[3];
        return a > b ? a : b;
    }
};

BYHAND_INLINE Mask::Lanes bits(Vec a) { return reinterpret_cast<Mask::Lanes>(a.v); }
BYHAND_INLINE Vec floats(Mask::Lanes a) { return {reinterpret_cast<Vec::Lanes>(a)}; }

BYHAND_INLINE Mask operator<(Vec a, Vec b) { return {a.v < b.v}; }
BYHAND_INLINE Mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
BYHAND_INLINE Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
BYHAND_INLINE Mask operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
BYHAND_INLINE Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
BYHAND_INLINE Vec select(Mask m, Vec a, Vec b) {
    return floats((m.m & bits(a)) | (~m.m & bits(b)));
}

BYHAND_INLINE void stream_fence() {}

BYHAND_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
BYHAND_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
BYHAND_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
BYHAND_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
BYHAND_INLINE Vec operator-(Vec a) { return {-a.v}; }
BYHAND_INLINE Vec fma(Vec a, Vec b, Vec c) {
#ifdef __FP_FAST_FMAF
    for (int i = 0; i < 4; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
#else
    return {a.v * b.v + c.v};  // two roundings: a library fma would cost a call per lane
#endif
}
BYHAND_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
BYHAND_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }
BYHAND_INLINE Vec abs(Vec a) { return floats(bits(a) & 0x7fffffff); }
BYHAND_INLINE Vec sqrt(Vec a) {
    return {Vec::Lanes{std::sqrt(a.v[0]), std::sqrt(a.v[1]), std::sqrt(a.v[2]), std::sqrt(a.v[3])}};
}
// Adding 1.5 * 2^23 shifts the fraction out of the mantissa. Beyond 2^22 a float is a multiple of
// 1/2 and is returned unchanged.
BYHAND_INLINE Vec round(Vec a) {
    const Vec magic = Vec::set(12582912.0f);
    return select(abs(a) < Vec::set(4194304.0f), (a + magic) - magic, a);
}

BYHAND_INLINE Mask below(const std::uint16_t* p, std::uint32_t limit) {
    return {Mask::Lanes{-(p[0] < limit), -(p[1] < limit), -(p[2] < limit), -(p[3] < limit)}};
}

// x * 2^n for integral n in [-252, 254], by two factors, so that neither is out of range unless the
// product is.
BYHAND_INLINE Vec scale2(Vec x, Vec n) {
    const Mask::Lanes whole = __builtin_convertvector(n.v, Mask::Lanes);
    const Mask::Lanes half = whole >> 1;
    return x * floats((half + 127) << 23) * floats((whole - half + 127) << 23);
}
BYHAND_INLINE Vec power_of_2(Vec t) { return floats(bits(t) << 23); }
// The exponent e and the mantissa m in [1, 2) of a normal positive x = m * 2^e.
BYHAND_INLINE Vec exponent(Vec x) {
    return {__builtin_convertvector((bits(x) >> 23) - 127, Vec::Lanes)};
}
BYHAND_INLINE Vec mantissa(Vec x) { return floats((bits(x) & 0x007fffff) | 0x3f800000); }

BYHAND_INLINE Vec swap_neighbours(Vec x) { return {Vec::Lanes{x.v[1], x.v[0], x.v[3], x.v[2]}}; }

// To the nearest bfloat16, ties to even; still a float.
BYHAND_INLINE Vec round_bf16(Vec x) {
    const Mask::Lanes odd = (bits(x) >> 16) & 1;
    return select(x == x, floats((bits(x) + odd + 0x7fff) & -0x10000), x);
}

BYHAND_INLINE void transpose(Vec (&r)[4]) {
    const Vec::Lanes a = r[0].v, b = r[1].v, c = r[2].v, d = r[3].v;
    BYHAND_UNROLL
    for (int i = 0; i < 4; ++i) r[i].v = Vec::Lanes{a[i], b[i], c[i], d[i]};
}

BYHAND_INLINE Vec widen_first(Vec pairs) { return floats(bits(pairs) << 16); }
BYHAND_INLINE Vec widen_second(Vec pairs) { return floats(bits(pairs) & -0x10000); }
// The bits of a half, moved to their places in a float, are 2^-112 of its value, subnormal or not.
BYHAND_INLINE Vec load_halves(const std::uint16_t* p) {
    const Mask::Lanes half = {p[0], p[1], p[2], p[3]};
    const Vec value = floats((half & 0x7fff) << 13) * Vec::set(0x1p112f);
    return floats(bits(value) | (half & 0x8000) << 16);
}

struct Ints {
    Mask::Lanes v;
    static BYHAND_INLINE Ints set(std::int32_t s) { return {Mask::Lanes{s, s, s, s}}; }
    static BYHAND_INLINE Ints load(const void* p) {
        Ints r;
        std::memcpy(&r.v, p, sizeof(r.v));
        return r;
    }
};
BYHAND_INLINE Vec to_float(Ints a) { return {__builtin_convertvector(a.v, Vec::Lanes)}; }
BYHAND_INLINE Ints low_nibbles(Ints a) { return {a.v & 0x0f0f0f0f}; }
BYHAND_INLINE Ints high_nibbles(Ints a) { return {(a.v >> 4) & 0x0f0f0f0f}; }
// A product of an unsigned and a signed byte fits into 16 bits; sums are 32 bits long.
inline constexpr int kExcess = 128;
BYHAND_INLINE Ints dot_bytes(Ints q, Ints a, Ints sum) {
    typedef std::int16_t Shorts __attribute__((vector_size(16)));
    const auto shorts = [](Mask::Lanes x) { return reinterpret_cast<Shorts>(x); };
    const auto sum_of_pair = [](Shorts x) {
        const Mask::Lanes pair = reinterpret_cast<Mask::Lanes>(x);
        return (pair << 16 >> 16) + (pair >> 16);
    };
    const Shorts even = shorts(q.v & 0x00ff00ff) * (shorts(a.v << 8) >> 8);
    const Shorts odd = shorts(q.v >> 8 & 0x00ff00ff) * (shorts(a.v) >> 8);
    return {sum.v + sum_of_pair(even) + sum_of_pair(odd)};
}
BYHAND_INLINE Ints dot_nibbles(Ints q, Ints a, Ints sum) { return dot_bytes(q, a, sum); }

BYHAND_INLINE void store_bytes(Vec a, std::int8_t* p) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<std::int8_t>(a.v[i]);
}

}  // namespace byhand
