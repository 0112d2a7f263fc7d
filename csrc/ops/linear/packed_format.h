// How packed_linear's weights lie in memory, on the CPU and on the GPU.
//
// Columns of the product, rows of w, are packed in panels of 32, one after the other; the last one
// is filled up with zeros. Within a panel numbers are in the order of k, the neighbours of a column
// in the next column: a step of the kernels reads consecutive memory.
//
//   float32   for each k 32 floats
//   bf16      for each pair of k 32 words of 4 bytes, the first of a pair in the lower half
//   int8      for each group of 32 k: 32 scales of 16 bits; then, for each four k, 32 words of four
//             bytes q. The weight is (q - 128) scale: llama.cpp's Q8_0, with an excess of 128
//   int4      as int8, with two numbers to a byte: of word s of a column the lower nibbles are the
//             numbers 4 s .. 4 s + 3 of the group, the upper ones 16 later. The weight is
//             (q - 8) scale: Q4_0
//   int4_1    as int4, with 32 minima behind the scales. The weight is q scale + minimum: Q4_1
//
// A K that does not fill its last pair or group is filled up with zeros.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/array.h"
#include "core/both.h"

namespace byhand {

inline constexpr int kPackedCols = 32, kPackedGroup = 32;

enum class PackedFormat { float32, bf16, int8, int4, int4_1 };

// A format of groups: the bytes of its scales and minima, and of all of a group of a panel.
template <PackedFormat format>
struct PackedGroup {
    static constexpr bool whole_bytes = format == PackedFormat::int8;
    static constexpr bool has_minimum = format == PackedFormat::int4_1;
    static constexpr int zero = whole_bytes ? 128 : has_minimum ? 0 : 8;  // the q of the weight 0
    static constexpr int head = kPackedCols * (has_minimum ? 4 : 2);
    static constexpr int bytes = head + kPackedCols * kPackedGroup / (whole_bytes ? 1 : 2);
};

BYHAND_HD inline std::int64_t packed_groups(std::int64_t K) {
    return (K + kPackedGroup - 1) / kPackedGroup;
}

// Bytes of a panel.
inline std::int64_t packed_panel(PackedFormat format, std::int64_t K) {
    switch (format) {
        case PackedFormat::float32:
            return K * kPackedCols * 4;
        case PackedFormat::bf16:
            return (K + 1) / 2 * kPackedCols * 4;
        case PackedFormat::int8:
            return packed_groups(K) * PackedGroup<PackedFormat::int8>::bytes;
        case PackedFormat::int4:
            return packed_groups(K) * PackedGroup<PackedFormat::int4>::bytes;
        case PackedFormat::int4_1:
            return packed_groups(K) * PackedGroup<PackedFormat::int4_1>::bytes;
    }
    throw std::invalid_argument("format must be 0, 1, 2, 3 or 4");
}

// The format of this number. std::invalid_argument if there is none, or if `words` has not the size
// of (N,K) weights in it.
inline PackedFormat packed_format(std::int64_t number, const Array& words, std::int64_t N,
                                  std::int64_t K) {
    if (number < 0 || number > 4) {
        throw std::invalid_argument("format must be 0, 1, 2, 3 or 4, got " +
                                    std::to_string(number));
    }
    const auto format = static_cast<PackedFormat>(number);
    const std::int64_t panels = (N + kPackedCols - 1) / kPackedCols;
    if (words.size() * 8 != panels * packed_panel(format, K)) {
        throw std::invalid_argument(std::string(words.name) + " has " +
                                    std::to_string(words.size()) + " words, the weights need " +
                                    std::to_string(panels * packed_panel(format, K) / 8));
    }
    return format;
}

// --- Numbers of 16 bits (IEEE binary16) ----------------------------------------------------------

BYHAND_HD inline std::uint32_t bits_of_float(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
BYHAND_HD inline float float_of_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// To the nearest, ties to even; infinity from 65520 on. Not for NaN.
BYHAND_HD inline std::uint16_t to_half(float x) {
    const std::uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {  // subnormal: adding 1/2 leaves the bits of 2^-24 at the end
        const float shifted = float_of_bits(magnitude) + 0.5f;
        return static_cast<std::uint16_t>(sign | (bits_of_float(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<std::uint16_t>(sign | rounded >> 13);
}

BYHAND_HD inline float from_half(std::uint16_t half) {
    const float value = float_of_bits((half & 0x7fffu) << 13) * 0x1p112f;
    return float_of_bits(bits_of_float(value) | (half & 0x8000u) << 16);
}

// --- Groups of 32 numbers ------------------------------------------------------------------------
//
// The arithmetic of llama.cpp's reference, ggml-quants.c: products are rounded before they are
// added to, and half of a unit is rounded away from zero.

// Below this a scale has no inverse; its group counts as zeros.
inline constexpr float kLeastScale = 1.17549435e-38f;

BYHAND_HD inline float round_away(float x) {
    const float magnitude = fabsf(x), below = floorf(magnitude);
    return copysignf(below + floorf(2.0f * (magnitude - below)), x);
}

// q[i] is the nearest integer of x[i] / scale, in -127..127. Returns the scale.
BYHAND_HD inline float quantise_int8(std::int8_t* q, const float* x) {
    float largest = 0.0f;
    for (int i = 0; i < kPackedGroup; ++i) largest = fmaxf(largest, fabsf(x[i]));
    const float scale = largest / 127.0f, inverse = scale < kLeastScale ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kPackedGroup; ++i) {
        q[i] = static_cast<std::int8_t>(round_away(x[i] * inverse));
    }
    return scale;
}

// x[i] is about (q[i] - 8) scale. The largest number is -8 or 8 scales, such that its q is 0.
BYHAND_HD inline float quantise_int4(std::uint8_t* q, const float* x) {
    float largest = 0.0f;
    for (int i = 0; i < kPackedGroup; ++i) {
        if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
    }
    const float scale = largest / -8.0f;
    const float inverse = fabsf(scale) < kLeastScale ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kPackedGroup; ++i) {
        const auto above = static_cast<int>(x[i] * inverse + 8.5f);
        q[i] = static_cast<std::uint8_t>(above > 15 ? 15 : above);
    }
    return scale;
}

// x[i] is about q[i] scale + minimum.
BYHAND_HD inline float quantise_int4_1(std::uint8_t* q, float& minimum, const float* x) {
    float most = x[0];
    minimum = x[0];
    for (int i = 1; i < kPackedGroup; ++i) {
        most = fmaxf(most, x[i]);
        minimum = fminf(minimum, x[i]);
    }
    const float scale = (most - minimum) / 15.0f;
    const float inverse = scale < kLeastScale ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kPackedGroup; ++i) {
        const auto above = static_cast<int>((x[i] - minimum) * inverse + 0.5f);
        q[i] = static_cast<std::uint8_t>(above > 15 ? 15 : above);
    }
    return scale;
}

}  // namespace byhand
