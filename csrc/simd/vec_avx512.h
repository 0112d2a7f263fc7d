// Vec on AVX-512 (F, BW, DQ, VL): 16 floats, masks in their own registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace byhand {

struct Mask {
    __mmask16 m;
    static BYHAND_INLINE Mask first(std::int64_t n) {
        return {static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u)};
    }
    static BYHAND_INLINE Mask load(const bool* p, std::int64_t n) {
        const __m128i bytes = _mm_maskz_loadu_epi8(first(n).m, p);
        return {_mm_test_epi8_mask(bytes, bytes)};
    }
};

BYHAND_INLINE Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
BYHAND_INLINE Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
BYHAND_INLINE Mask operator!(Mask a) { return {static_cast<__mmask16>(~a.m)}; }
BYHAND_INLINE bool any(Mask a) { return a.m != 0; }
BYHAND_INLINE bool all(Mask a) { return a.m == 0xffff; }

struct Vec {
    static constexpr int width = 16;
    __m512 v;

    static BYHAND_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
    static BYHAND_INLINE Vec set(float s) { return {_mm512_set1_ps(s)}; }
    static BYHAND_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n) {
        if (n >= width) return load(p);
        return {_mm512_maskz_loadu_ps(Mask::first(n).m, p)};
    }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n, float rest) {
        if (n >= width) return load(p);
        return {_mm512_mask_loadu_ps(_mm512_set1_ps(rest), Mask::first(n).m, p)};
    }
    BYHAND_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
    BYHAND_INLINE void store(float* p, std::int64_t n) const {
        if (n >= width) return store(p);
        _mm512_mask_storeu_ps(p, Mask::first(n).m, v);
    }
    BYHAND_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
    BYHAND_INLINE float sum() const {
        const __m256 a = _mm256_add_ps(half<0>(), half<1>());
        __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        b = _mm_add_ps(b, _mm_movehl_ps(b, b));
        return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
    }
    BYHAND_INLINE float max() const {
        const __m256 a = _mm256_max_ps(half<0>(), half<1>());
        __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        b = _mm_max_ps(b, _mm_movehl_ps(b, b));
        return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
    }

  private:
    template <int which>
    BYHAND_INLINE __m256 half() const {
        return _mm512_maskz_extractf32x8_ps(0xff, v, which);
    }
};

BYHAND_INLINE void stream_fence() { _mm_sfence(); }

BYHAND_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
BYHAND_INLINE Vec operator-(Vec a) { return {-a.v}; }  // the compiler joins it with fma
BYHAND_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The zero-masked intrinsics below compute the same values; they avoid a false warning of g++ 12 in
// its own headers.
BYHAND_INLINE Vec max(Vec a, Vec b) { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }
BYHAND_INLINE Vec min(Vec a, Vec b) { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
BYHAND_INLINE Vec abs(Vec a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
BYHAND_INLINE Vec sqrt(Vec a) { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
BYHAND_INLINE Vec round(Vec a) {
    return {_mm512_maskz_roundscale_ps(0xffff, a.v, 8)};
}  // to nearest, ties to even

BYHAND_INLINE Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
BYHAND_INLINE Mask operator<=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
BYHAND_INLINE Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
BYHAND_INLINE Mask operator>=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
BYHAND_INLINE Mask operator==(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
BYHAND_INLINE Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }

BYHAND_INLINE Mask below(const std::uint16_t* p, std::uint32_t limit) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_cmplt_epu16_mask(bits, _mm256_set1_epi16(static_cast<short>(limit)))};
}

BYHAND_INLINE Vec swap_neighbours(Vec x) { return {_mm512_maskz_permute_ps(0xffff, x.v, 0xb1)}; }

// To the nearest bfloat16, ties to even; still a float.
BYHAND_INLINE Vec round_bf16(Vec x) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __m512i top = _mm512_and_si512(sum, _mm512_set1_epi32(-0x10000));
    return select(x == x, {_mm512_castsi512_ps(top)}, x);
}

#if defined(__AVX512BF16__)
#define BYHAND_BF16_PAIRS

// Pairs of bfloat16, the first of a pair in the lower half.
BYHAND_INLINE Vec pairs_along(Vec first, Vec second) {  // neighbours in memory: 2 * width in a row
    return {(__m512)_mm512_cvtne2ps_pbh(second.v, first.v)};
}
BYHAND_INLINE Vec pairs_across(Vec even, Vec odd) {  // pair i is even[i], odd[i]
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return {_mm512_castsi512_ps(
        _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v)))};
}
BYHAND_INLINE Vec dot_pairs(Vec a, Vec b,
                            Vec sum) {  // sum + a.first * b.first + a.second * b.second
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
}
#endif

// x * 2^n for integral n; correct for subnormal results and near overflow.
BYHAND_INLINE Vec scale2(Vec x, Vec n) {
    const __mmask16 some = _mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-254.0f), _CMP_NLE_UQ);
    return {_mm512_maskz_scalef_ps(some, x.v, n.v)};
}
BYHAND_INLINE Vec power_of_2(Vec t) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t.v), 23))};
}
#define BYHAND_LOOKUP
BYHAND_INLINE Vec lookup(const float (&table)[16], Vec t) {
    return {_mm512_maskz_permutexvar_ps(0xffff, _mm512_castps_si512(t.v), _mm512_load_ps(table))};
}
// The exponent e and the mantissa m in [1, 2) of a normal positive x = m * 2^e.
BYHAND_INLINE Vec exponent(Vec x) { return {_mm512_maskz_getexp_ps(0xffff, x.v)}; }
BYHAND_INLINE Vec mantissa(Vec x) {
    return {_mm512_maskz_getmant_ps(0xffff, x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)};
}

// Four rounds of pair exchange: single lanes, pairs, then 128-bit quarters twice.
BYHAND_INLINE void transpose(Vec (&r)[16]) {
    __m512 t[16];
    BYHAND_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_maskz_unpacklo_ps(0xffff, r[i].v, r[i + 1].v);
        t[i + 1] = _mm512_maskz_unpackhi_ps(0xffff, r[i].v, r[i + 1].v);
    }
    BYHAND_UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i].v = _mm512_maskz_shuffle_ps(0xffff, t[i], t[i + 2], 0x44);
        r[i + 1].v = _mm512_maskz_shuffle_ps(0xffff, t[i], t[i + 2], 0xee);
        r[i + 2].v = _mm512_maskz_shuffle_ps(0xffff, t[i + 1], t[i + 3], 0x44);
        r[i + 3].v = _mm512_maskz_shuffle_ps(0xffff, t[i + 1], t[i + 3], 0xee);
    }
    BYHAND_UNROLL
    for (int i = 0; i < 4; ++i) {
        BYHAND_UNROLL
        for (int h = 0; h < 2; ++h) {
            t[8 * h + i] =
                _mm512_maskz_shuffle_f32x4(0xffff, r[8 * h + i].v, r[8 * h + 4 + i].v, 0x88);
            t[8 * h + 4 + i] =
                _mm512_maskz_shuffle_f32x4(0xffff, r[8 * h + i].v, r[8 * h + 4 + i].v, 0xdd);
        }
    }
    BYHAND_UNROLL
    for (int i = 0; i < 4; ++i) {
        r[i].v = _mm512_maskz_shuffle_f32x4(0xffff, t[i], t[8 + i], 0x88);
        r[i + 8].v = _mm512_maskz_shuffle_f32x4(0xffff, t[i], t[8 + i], 0xdd);
        r[i + 4].v = _mm512_maskz_shuffle_f32x4(0xffff, t[4 + i], t[12 + i], 0x88);
        r[i + 12].v = _mm512_maskz_shuffle_f32x4(0xffff, t[4 + i], t[12 + i], 0xdd);
    }
}

BYHAND_INLINE Vec widen_first(Vec pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs.v), 16))};
}
BYHAND_INLINE Vec widen_second(Vec pairs) {
    return {_mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(pairs.v), _mm512_set1_epi32(-0x10000)))};
}
BYHAND_INLINE Vec load_halves(const std::uint16_t* p) {
    return {_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

struct Ints {
    __m512i v;
    static BYHAND_INLINE Ints set(std::int32_t s) { return {_mm512_set1_epi32(s)}; }
    static BYHAND_INLINE Ints load(const void* p) { return {_mm512_loadu_si512(p)}; }
};
BYHAND_INLINE Vec to_float(Ints a) { return {_mm512_maskz_cvtepi32_ps(0xffff, a.v)}; }
BYHAND_INLINE Ints low_nibbles(Ints a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
BYHAND_INLINE Ints high_nibbles(Ints a) {
    return {_mm512_and_si512(_mm512_srli_epi32(a.v, 4), _mm512_set1_epi8(15))};
}
#if defined(__AVX512VNNI__)
inline constexpr int kExcess = 128;
BYHAND_INLINE Ints dot_bytes(Ints q, Ints a, Ints sum) {
    return {_mm512_dpbusd_epi32(sum.v, q.v, a.v)};
}
BYHAND_INLINE Ints dot_nibbles(Ints q, Ints a, Ints sum) { return dot_bytes(q, a, sum); }
#else
// Sums of two products of bytes must fit into 16 bits, where this instruction saturates.
BYHAND_INLINE Ints dot_nibbles(Ints q, Ints a, Ints sum) {  // 2 * 15 * 127
    const __m512i pairs = _mm512_maddubs_epi16(q.v, a.v);
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
inline constexpr int kExcess = 0;
BYHAND_INLINE Ints dot_bytes(Ints q, Ints a, Ints sum) {  // 2 * 128 * 127: |w| (a sign(w))
    const __m512i w = _mm512_xor_si512(q.v, _mm512_set1_epi8(-128));
    const __mmask64 negative = _mm512_movepi8_mask(w);
    const __m512i with_sign = _mm512_mask_sub_epi8(a.v, negative, _mm512_setzero_si512(), a.v);
    return dot_nibbles({_mm512_abs_epi8(w)}, {with_sign}, sum);
}
#endif

BYHAND_INLINE void store_bytes(Vec a, std::int8_t* p) {
    const __m512i whole = _mm512_maskz_cvtps_epi32(0xffff, a.v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(0xffff, whole));
}

}  // namespace byhand
