// Vec on 64-bit Arm (NEON): 4 floats, masks as all-ones lanes.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace byhand {

struct Mask {
    uint32x4_t m;
    static BYHAND_INLINE Mask first(std::int64_t n) {
        static constexpr std::uint32_t lane[4] = {0, 1, 2, 3};
        const std::uint32_t count = static_cast<std::uint32_t>(n >= 4 ? 4 : n <= 0 ? 0 : n);
        return {vcltq_u32(vld1q_u32(lane), vdupq_n_u32(count))};
    }
    static BYHAND_INLINE Mask load(const bool* p, std::int64_t n) {
        std::uint32_t lanes[4];
        for (int i = 0; i < 4; ++i) lanes[i] = i < n && p[i];
        return {vcgtq_u32(vld1q_u32(lanes), vdupq_n_u32(0))};
    }
};

BYHAND_INLINE Mask operator&(Mask a, Mask b) { return {vandq_u32(a.m, b.m)}; }
BYHAND_INLINE Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.m, b.m)}; }
BYHAND_INLINE Mask operator!(Mask a) { return {vmvnq_u32(a.m)}; }
BYHAND_INLINE bool any(Mask a) { return vmaxvq_u32(a.m) != 0; }
BYHAND_INLINE bool all(Mask a) { return vminvq_u32(a.m) != 0; }

struct Vec {
    static constexpr int width = 4;
    float32x4_t v;

    static BYHAND_INLINE Vec zero() { return {vdupq_n_f32(0.0f)}; }
    static BYHAND_INLINE Vec set(float s) { return {vdupq_n_f32(s)}; }
    static BYHAND_INLINE Vec load(const float* p) { return {vld1q_f32(p)}; }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n) { return load(p, n, 0.0f); }
    static BYHAND_INLINE Vec load(const float* p, std::int64_t n, float rest) {
        if (n >= width) return load(p);
        float32x4_t v = vdupq_n_f32(rest);
        if (n > 0) v = vld1q_lane_f32(p, v, 0);
        if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
        if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
        return {v};
    }
    BYHAND_INLINE void store(float* p) const { vst1q_f32(p, v); }
    BYHAND_INLINE void store(float* p, std::int64_t n) const {
        if (n >= width) return store(p);
        if (n > 0) vst1q_lane_f32(p, v, 0);
        if (n > 1) vst1q_lane_f32(p + 1, v, 1);
        if (n > 2) vst1q_lane_f32(p + 2, v, 2);
    }
    BYHAND_INLINE void stream(float* p) const { store(p); }
    BYHAND_INLINE float sum() const {
        const float32x2_t a = vadd_f32(vget_low_f32(v), vget_high_f32(v));
        return vget_lane_f32(a, 0) + vget_lane_f32(a, 1);
    }
    BYHAND_INLINE float max() const { return vmaxvq_f32(v); }
};

BYHAND_INLINE void stream_fence() {}

BYHAND_INLINE Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
BYHAND_INLINE Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
BYHAND_INLINE Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
BYHAND_INLINE Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
BYHAND_INLINE Vec operator-(Vec a) { return {vnegq_f32(a.v)}; }
BYHAND_INLINE Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
BYHAND_INLINE Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
BYHAND_INLINE Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
BYHAND_INLINE Vec round(Vec a) { return {vrndnq_f32(a.v)}; }

BYHAND_INLINE Mask operator<(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
BYHAND_INLINE Mask operator<=(Vec a, Vec b) { return {vcleq_f32(a.v, b.v)}; }
BYHAND_INLINE Mask operator>(Vec a, Vec b) { return {vcgtq_f32(a.v, b.v)}; }
BYHAND_INLINE Mask operator>=(Vec a, Vec b) { return {vcgeq_f32(a.v, b.v)}; }
BYHAND_INLINE Mask operator==(Vec a, Vec b) { return {vceqq_f32(a.v, b.v)}; }
BYHAND_INLINE Vec select(Mask m, Vec a, Vec b) { return {vbslq_f32(m.m, a.v, b.v)}; }
// Arm's own maximum propagates NaN from either side; here it is a > b ? a : b, as on every other
// instruction set.
BYHAND_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
BYHAND_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }

BYHAND_INLINE Mask below(const std::uint16_t* p, std::uint32_t limit) {
    return {vcltq_u32(vmovl_u16(vld1_u16(p)), vdupq_n_u32(limit))};
}

// x * 2^n for integral n in [-252, 254], by two factors, so that neither is out of range unless the
// product is.
BYHAND_INLINE Vec scale2(Vec x, Vec n) {
    const int32x4_t whole = vcvtq_s32_f32(n.v);
    const int32x4_t half = vshrq_n_s32(whole, 1);
    const int32x4_t bias = vdupq_n_s32(127);
    const int32x4_t a = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t b = vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23);
    return {vmulq_f32(vmulq_f32(x.v, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b))};
}
BYHAND_INLINE Vec power_of_2(Vec t) {
    return {vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(t.v), 23))};
}
// The exponent e and the mantissa m in [1, 2) of a normal positive x = m * 2^e.
BYHAND_INLINE Vec exponent(Vec x) {
    const int32x4_t e = vshrq_n_s32(vreinterpretq_s32_f32(x.v), 23);
    return {vcvtq_f32_s32(vsubq_s32(e, vdupq_n_s32(127)))};
}
BYHAND_INLINE Vec mantissa(Vec x) {
    const int32x4_t fraction = vandq_s32(vreinterpretq_s32_f32(x.v), vdupq_n_s32(0x007fffff));
    return {vreinterpretq_f32_s32(vorrq_s32(fraction, vdupq_n_s32(0x3f800000)))};
}

BYHAND_INLINE Vec swap_neighbours(Vec x) { return {vrev64q_f32(x.v)}; }

// To the nearest bfloat16, ties to even; still a float.
BYHAND_INLINE Vec round_bf16(Vec x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x.v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
    const uint32x4_t top = vandq_u32(sum, vdupq_n_u32(0xffff0000u));
    return select(x == x, {vreinterpretq_f32_u32(top)}, x);
}

BYHAND_INLINE void transpose(Vec (&r)[4]) {
    const float32x4x2_t a = vtrnq_f32(r[0].v, r[1].v);
    const float32x4x2_t b = vtrnq_f32(r[2].v, r[3].v);
    r[0].v = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1].v = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2].v = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3].v = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

BYHAND_INLINE Vec widen_first(Vec pairs) {
    return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pairs.v), 16))};
}
BYHAND_INLINE Vec widen_second(Vec pairs) {
    const uint32x4_t bits = vreinterpretq_u32_f32(pairs.v);
    return {vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)))};
}
BYHAND_INLINE Vec load_halves(const std::uint16_t* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))};
}

struct Ints {
    int32x4_t v;
    static BYHAND_INLINE Ints set(std::int32_t s) { return {vdupq_n_s32(s)}; }
    static BYHAND_INLINE Ints load(const void* p) {
        return {vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p)))};
    }
};
BYHAND_INLINE Vec to_float(Ints a) { return {vcvtq_f32_s32(a.v)}; }
BYHAND_INLINE Ints low_nibbles(Ints a) {
    return {vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(a.v), vdupq_n_u8(15)))};
}
BYHAND_INLINE Ints high_nibbles(Ints a) {
    return {vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a.v), 4))};
}
// Nibbles are signed bytes too.
BYHAND_INLINE Ints dot_nibbles(Ints q, Ints a, Ints sum) {
    const int8x16_t x = vreinterpretq_s8_s32(q.v), y = vreinterpretq_s8_s32(a.v);
#if defined(__ARM_FEATURE_DOTPROD)
    return {vdotq_s32(sum.v, x, y)};
#else
    const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y));
    const int16x8_t high = vmull_s8(vget_high_s8(x), vget_high_s8(y));
    return {vaddq_s32(sum.v, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))};
#endif
}
inline constexpr int kExcess = 0;
BYHAND_INLINE Ints dot_bytes(Ints q, Ints a, Ints sum) {
    return dot_nibbles({veorq_s32(q.v, vdupq_n_s32(static_cast<std::int32_t>(0x80808080u)))}, a,
                       sum);
}

BYHAND_INLINE void store_bytes(Vec a, std::int8_t* p) {
    const int16x4_t shorts = vmovn_s32(vcvtnq_s32_f32(a.v));
    const int8x8_t bytes = vmovn_s16(vcombine_s16(shorts, shorts));
    vst1_lane_s32(reinterpret_cast<std::int32_t*>(p), vreinterpret_s32_s8(bytes), 0);
}

}  // namespace byhand
