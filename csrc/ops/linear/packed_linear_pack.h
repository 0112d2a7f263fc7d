// Packing for packed_linear: weights once, and rows of x in each product with int8 or int4.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ops/linear/packed_format.h"
#include "simd/vec.h"

namespace byhand {

// The first n of 32 numbers of x, zeros behind, as bytes q with x about q scale. Returns the sum of
// the bytes. The scale of a group with a number that is not finite is NaN.
inline std::int32_t quantise_row_group(std::int8_t* q, float& scale, const float* x,
                                       std::int64_t n) {
    constexpr int W = Vec::width, words = kPackedGroup / W;
    Vec v[words], largest = Vec::zero(), nothing = Vec::zero();
    BYHAND_UNROLL
    for (int i = 0; i < words; ++i) {
        v[i] = Vec::load(x + i * W, n - i * W);
        largest = max(abs(v[i]), largest);
        nothing += v[i] * Vec::zero();  // NaN if a number is not finite
    }
    const float invalid = nothing.sum();
    scale = largest.max() / 127.0f + invalid;
    if (!(scale >= kLeastScale)) {
        std::memset(q, 0, kPackedGroup);
        scale = invalid;
        return 0;
    }
    const Vec inverse = Vec::set(1.0f / scale);
    Vec sum = Vec::zero();
    BYHAND_UNROLL
    for (int i = 0; i < words; ++i) {
        const Vec whole = round(v[i] * inverse);
        store_bytes(whole, q + i * W);
        sum += whole;
    }
    return static_cast<std::int32_t>(sum.sum());
}

// Up to 32 columns of K numbers, column j at w + j K, as floats or as pairs of bfloat16.
inline void pack_floats(std::uint8_t* to, const float* w, std::int64_t cols, std::int64_t K,
                        bool pairs) {
    constexpr int W = Vec::width;
    for (int j = 0; j < kPackedCols; j += W) {
        for (std::int64_t k = 0; k < K; k += W) {
            Vec square[W];
            BYHAND_UNROLL
            for (int i = 0; i < W; ++i) {
                square[i] = j + i < cols ? Vec::load(w + (j + i) * K + k, K - k) : Vec::zero();
                if (pairs) square[i] = round_bf16(square[i]);
            }
            transpose(square);
            float rows[W + 1][W] = {};  // the last one is zero
            BYHAND_UNROLL
            for (int i = 0; i < W; ++i) square[i].store(rows[i]);
            const int left = static_cast<int>(std::min<std::int64_t>(W, K - k));
            for (int i = 0; i < left; i += pairs ? 2 : 1) {
                std::uint32_t words[W];
                for (int c = 0; c < W; ++c) {
                    const std::uint32_t bits = bits_of_float(rows[i][c]);
                    words[c] = pairs ? bits >> 16 | bits_of_float(rows[i + 1][c]) : bits;
                }
                const std::int64_t step = pairs ? (k + i) / 2 : k + i;
                std::memcpy(to + (step * kPackedCols + j) * 4, words, sizeof words);
            }
        }
    }
}

// The same in groups of integers.
template <PackedFormat format>
void pack_groups(std::uint8_t* to, const float* w, std::int64_t cols, std::int64_t K) {
    using Group = PackedGroup<format>;
    for (std::int64_t k = 0; k < K; k += kPackedGroup, to += Group::bytes) {
        const auto n = static_cast<std::size_t>(std::min<std::int64_t>(kPackedGroup, K - k));
        for (int j = 0; j < kPackedCols; ++j) {
            float x[kPackedGroup] = {};
            if (j < cols) std::memcpy(x, w + j * K + k, n * sizeof(float));
            std::uint8_t q[kPackedGroup];
            float scale, minimum = 0.0f;
            if constexpr (Group::whole_bytes) {
                std::int8_t whole[kPackedGroup];
                scale = quantise_int8(whole, x);
                for (int i = 0; i < kPackedGroup; ++i) {
                    q[i] = static_cast<std::uint8_t>(whole[i] + Group::zero);
                }
            } else if constexpr (Group::has_minimum) {
                scale = quantise_int4_1(q, minimum, x);
            } else {
                scale = quantise_int4(q, x);
            }
            const std::uint16_t halves[2] = {to_half(scale), to_half(minimum)};
            std::memcpy(to + 2 * j, &halves[0], 2);
            if (Group::has_minimum) std::memcpy(to + 2 * (kPackedCols + j), &halves[1], 2);
            constexpr int kBytes = Group::whole_bytes ? kPackedGroup : kPackedGroup / 2;
            if (!Group::whole_bytes) {
                for (int i = 0; i < kBytes; ++i) q[i] |= q[i + kBytes] << 4;
            }
            for (int s = 0; s < kBytes / 4; ++s) {
                std::memcpy(to + Group::head + (s * kPackedCols + j) * 4, q + 4 * s, 4);
            }
        }
    }
}

inline void pack_panel(std::uint8_t* to, const float* w, std::int64_t cols, std::int64_t K,
                       PackedFormat format) {
    switch (format) {
        case PackedFormat::float32:
        case PackedFormat::bf16:
            return pack_floats(to, w, cols, K, format == PackedFormat::bf16);
        case PackedFormat::int8:
            return pack_groups<PackedFormat::int8>(to, w, cols, K);
        case PackedFormat::int4:
            return pack_groups<PackedFormat::int4>(to, w, cols, K);
        case PackedFormat::int4_1:
            return pack_groups<PackedFormat::int4_1>(to, w, cols, K);
    }
}

}  // namespace byhand
