// Vec on AVX2 with FMA: 8 floats, masks as all-ones lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace byhand {

struct Mask {
    __m256 m;
    static BYHAND_INLINE Mask first(std::int64_t n) {
        // A window into eight ones followed by eight zeros.
        static constexpr std::int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
        const std::int64_t start = n >= 8 ? 0 : n <= 0 ? 8 : 8 - n;
        return {_mm256_castsi256_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ones + start)))};
    }
    static BYHAND_INLINE Mask load(const bool* p, std::int64_t n) {
        std::uint64_t bytes = 0;
        for (int i = 0; i < 8; ++i) bytes |= static_cast<std::uint64_t>(i < n && p[i]) << (8 * i);
        const __m256i lanes =
            _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
        return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(lanes, _mm256_setzero_si256()))};
    }
};

BYHAND_INLINE Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
BYHAND_INLINE Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.m, b.m)}; }
BYHAND_INLINE Mask operator!(Mask a) {
    return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
BYHAND_INLINE bool any(Mask a) { return _mm256_movemask_ps(a.m) != 0; }
BYHAND_INLINE bool all(Mask a) { return _mm256_movemask_ps(a.m) == 0xff; }

struct Vec {
    static constexpr int width = 8;
    __m256 v;

    static BYHAND_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
    static BYHAND_INLINE Vec set(float s) { return {_mm256_set1_ps(s)}; }
    static BYHAND_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n) {
        if (n >= width) return load(p);
        return {_mm256_maskload_ps(p, _mm256_castps_si256(Mask::first(n).m))};
    }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n, float rest) {
        if (n >= width) return load(p);
        const __m256 m = Mask::first(n).m;
        return {_mm256_blendv_ps(_mm256_set1_ps(rest),
                                 _mm256_maskload_ps(p, _mm256_castps_si256(m)), m)};
    }
    BYHAND_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
    BYHAND_INLINE void store(float* p, std::int64_t n) const {
        if (n >= width) return store(p);
        _mm256_maskstore_ps(p, _mm256_castps_si256(Mask::first(n).m), v);
    }
    BYHAND_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
    BYHAND_INLINE float sum() const {
        __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        b = _mm_add_ps(b, _mm_movehl_ps(b, b));
        return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
    }
    BYHAND_INLINE float max() const {
        __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        b = _mm_max_ps(b, _mm_movehl_ps(b, b));
        return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
    }
};

BYHAND_INLINE void stream_fence() { _mm_sfence(); }

BYHAND_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator-(Vec a) { return {-a.v}; }  // the compiler joins it with fma
BYHAND_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
BYHAND_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
BYHAND_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
BYHAND_INLINE Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
BYHAND_INLINE Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
BYHAND_INLINE Vec round(Vec a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

BYHAND_INLINE Mask operator<(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
BYHAND_INLINE Mask operator<=(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
BYHAND_INLINE Mask operator>(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
BYHAND_INLINE Mask operator>=(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
BYHAND_INLINE Mask operator==(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
BYHAND_INLINE Vec select(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }

BYHAND_INLINE Mask below(const std::uint16_t* p, std::uint32_t limit) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i bound = _mm256_set1_epi32(static_cast<int>(limit));
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(bound, _mm256_cvtepu16_epi32(bits)))};
}

// x * 2^n for integral n in [-252, 254], by two factors, so that neither is out of range unless the
// product is.
BYHAND_INLINE Vec scale2(Vec x, Vec n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return {_mm256_mul_ps(_mm256_mul_ps(x.v, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b))};
}
BYHAND_INLINE Vec power_of_2(Vec t) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t.v), 23))};
}
// The exponent e and the mantissa m in [1, 2) of a normal positive x = m * 2^e.
BYHAND_INLINE Vec exponent(Vec x) {
    const __m256i e = _mm256_srli_epi32(_mm256_castps_si256(x.v), 23);
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)))};
}
BYHAND_INLINE Vec mantissa(Vec x) {
    const __m256i fraction =
        _mm256_and_si256(_mm256_castps_si256(x.v), _mm256_set1_epi32(0x007fffff));
    return {_mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)))};
}

BYHAND_INLINE Vec swap_neighbours(Vec x) { return {_mm256_permute_ps(x.v, 0xb1)}; }

// To the nearest bfloat16, ties to even; still a float.
BYHAND_INLINE Vec round_bf16(Vec x) {
    const __m256i bits = _mm256_castps_si256(x.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256i top = _mm256_and_si256(sum, _mm256_set1_epi32(-0x10000));
    return select(x == x, {_mm256_castsi256_ps(top)}, x);
}

// Three rounds of pair exchange: single lanes, pairs, 128-bit halves.
BYHAND_INLINE void transpose(Vec (&r)[8]) {
    __m256 t[8];
    BYHAND_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
        t[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
    }
    BYHAND_UNROLL
    for (int i = 0; i < 8; i += 4) {
        r[i].v = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1].v = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2].v = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3].v = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    BYHAND_UNROLL
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2f128_ps(r[i].v, r[i + 4].v, 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i].v, r[i + 4].v, 0x31);
    }
    BYHAND_UNROLL
    for (int i = 0; i < 8; ++i) r[i].v = t[i];
}

BYHAND_INLINE Vec widen_first(Vec pairs) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs.v), 16))};
}
BYHAND_INLINE Vec widen_second(Vec pairs) {
    return {_mm256_castsi256_ps(
        _mm256_and_si256(_mm256_castps_si256(pairs.v), _mm256_set1_epi32(-0x10000)))};
}
// The bits of a half, moved to their places in a float, are 2^-112 of its value, subnormal or not.
BYHAND_INLINE Vec load_halves(const std::uint16_t* p) {
    const __m256i bits =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude =
        _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fff)), 13);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x8000)), 16);
    const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p112f));
    return {_mm256_or_ps(value, _mm256_castsi256_ps(sign))};
}

struct Ints {
    __m256i v;
    static BYHAND_INLINE Ints set(std::int32_t s) { return {_mm256_set1_epi32(s)}; }
    static BYHAND_INLINE Ints load(const void* p) {
        return {_mm256_loadu_si256(static_cast<const __m256i*>(p))};
    }
};
BYHAND_INLINE Vec to_float(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
BYHAND_INLINE Ints low_nibbles(Ints a) { return {_mm256_and_si256(a.v, _mm256_set1_epi8(15))}; }
BYHAND_INLINE Ints high_nibbles(Ints a) {
    return {_mm256_and_si256(_mm256_srli_epi32(a.v, 4), _mm256_set1_epi8(15))};
}
// Sums of two products of bytes must fit into 16 bits, where this instruction saturates.
BYHAND_INLINE Ints dot_nibbles(Ints q, Ints a, Ints sum) {  // 2 * 15 * 127
    const __m256i pairs = _mm256_maddubs_epi16(q.v, a.v);
    return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
inline constexpr int kExcess = 0;
BYHAND_INLINE Ints dot_bytes(Ints q, Ints a, Ints sum) {  // 2 * 128 * 127: |w| (a sign(w))
    const __m256i w = _mm256_xor_si256(q.v, _mm256_set1_epi8(-128));
    return dot_nibbles({_mm256_abs_epi8(w)}, {_mm256_sign_epi8(a.v, w)}, sum);
}

BYHAND_INLINE void store_bytes(Vec a, std::int8_t* p) {
    const __m256i whole = _mm256_cvtps_epi32(a.v);
    const __m128i shorts =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(shorts, shorts));
}

}  // namespace byhand
