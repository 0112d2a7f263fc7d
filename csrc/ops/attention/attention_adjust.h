// What acts on scores before the masks: the cap, the slopes times the distances, and the bias.
//
// The same operations in the same order on a tile, whose lanes are queries, and on a row, whose
// lanes are keys, so that the backward pass recomputes the bits from which lse was computed.
#pragma once

#include "ops/attention/attention_scores.h"

namespace byhand {
namespace tiles {

// first, first + step, first + 2 step, ...
inline Vec counted(float first, float step) {
    float x[Vec::width];
    for (int64_t n = 0; n < Vec::width; ++n) x[n] = first + static_cast<float>(n) * step;
    return Vec::load(x);
}

// The cap of scores, cap tanh(s / cap), and its derivative.
struct Cap {
    float cap;

    Vec tanh_of(Vec s) const { return tanh(s * Vec::set(1.0f / cap)); }
    Vec of(Vec s) const { return Vec::set(cap) * tanh_of(s); }
    Vec derivative(Vec s) const {
        const Vec y = tanh_of(s);
        return (Vec::set(1.0f) - y) * (Vec::set(1.0f) + y);
    }
};

// tile[j][i] = the bias of query i and key j, whatever its strides.
inline void turn_bias(float* tile, const Problem& p, const Tile& t) {
    const float* bias = p.bias_at(t.bh, t.i0, t.j0);
    const int64_t row = p.bias.stride[2], key = p.bias.stride[3];
    if (key == 1) return pack_transposed(tile, {bias, row}, t.queries, t.keys, 1.0f);
    for (int64_t j = 0; j < t.keys; ++j) {
        for (int64_t i = 0; i < t.columns(); ++i) {
            tile[j * kTile + i] = i < t.queries ? bias[i * row + j * key] : 0.0f;
        }
    }
}

// The visible scores of a tile; work holds one tile. derivative, unless null, receives that of the
// cap if there is one.
inline void adjust_tile(float* s, const Problem& p, const Tile& t, float* work, float* derivative) {
    const float* slopes = p.slopes.as<float>();
    const Vec slope = Vec::set(slopes == nullptr ? 0.0f : slopes[t.bh % p.H]);
    const Cap cap{p.softcap};
    if (p.bias) turn_bias(work, p, t);
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t end = t.word_end(i);
        const Vec first = counted(static_cast<float>(t.j0 - (t.i0 + i + p.S - p.T)), -1.0f);
        for (int64_t j = t.keys_begin(i); j < end; ++j) {
            const int64_t at = j * kTile + i;
            Vec x = Vec::load(s + at);
            if (p.softcap > 0) {
                if (derivative != nullptr) cap.derivative(x).store(derivative + at);
                x = cap.of(x);
            }
            if (slopes != nullptr) {
                x = fma(slope, first + Vec::set(static_cast<float>(j)), x);
            }
            if (p.bias) x += Vec::load(work + at);
            x.store(s + at);
        }
    }
}

// The scores of query i of head bh and the keys from j0 on.
inline void adjust_row(float* s, const Problem& p, int64_t bh, int64_t i, int64_t j0,
                       int64_t keys) {
    const float* slopes = p.slopes.as<float>();
    const Vec slope = Vec::set(slopes == nullptr ? 0.0f : slopes[bh % p.H]);
    const Cap cap{p.softcap};
    const float* bias = p.bias ? p.bias_at(bh, i, j0) : nullptr;
    const int64_t stride = p.bias.stride[3];
    const Vec first = counted(static_cast<float>(j0 - (i + p.S - p.T)), 1.0f);
    for (int64_t j = 0; j < keys; j += Vec::width) {
        Vec x = Vec::load(s + j);
        if (p.softcap > 0) x = cap.of(x);
        if (slopes != nullptr) x = fma(slope, first + Vec::set(static_cast<float>(j)), x);
        if (bias != nullptr && stride == 1) x += Vec::load(bias + j, keys - j);
        if (bias != nullptr && stride != 1) {
            float gathered[Vec::width];
            for (int64_t n = 0; n < Vec::width; ++n) {
                gathered[n] = j + n < keys ? bias[(j + n) * stride] : 0.0f;
            }
            x += Vec::load(gathered);
        }
        x.store(s + j);
    }
}

}  // namespace tiles
}  // namespace byhand
