#include "ops/attention/rope.h"

#include "core/ids.h"
#include "core/rows.h"
#include "ops/attention/rope_sizes.h"

namespace byhand {
namespace {

// Writes one vector of a result, into the caches or, if `past`, past them. Then all of its parts
// are whole cache lines.
template <bool past>
BYHAND_INLINE void put(Vec v, float* y, std::int64_t lanes) {
    if constexpr (past) {
        v.stream(y);
    } else {
        v.store(y, lanes);
    }
}

// Pairs (i, i + F); y may be x. The vector of the same head at the next position, `ahead` elements
// away, is prefetched: the processor does not foresee it across other heads.
template <bool past>
BYHAND_FLATTEN void rotate_halves(float* y, const float* x, const float* cos, const float* sin,
                                  Vec sign, std::int64_t F, std::int64_t ahead) {
    for_words(F, [=](std::int64_t i, std::int64_t lanes) {
        __builtin_prefetch(x + ahead + i);
        __builtin_prefetch(x + ahead + F + i);
        const Vec c = Vec::load(cos + i, lanes), s = Vec::load(sin + i, lanes) * sign;
        const Vec a = Vec::load(x + i, lanes), b = Vec::load(x + F + i, lanes);
        put<past>(fma(a, c, -(b * s)), y + i, lanes);
        put<past>(fma(b, c, a * s), y + F + i, lanes);
    });
}

// Pairs (2i, 2i + 1). cos and sin hold a number for each element, sin with its sign.
template <bool past>
BYHAND_FLATTEN void rotate_neighbours(float* y, const float* x, const float* cos, const float* sin,
                                      std::int64_t R, std::int64_t ahead) {
    for_words(R, [=](std::int64_t i, std::int64_t lanes) {
        __builtin_prefetch(x + ahead + i);
        const Vec v = Vec::load(x + i, lanes);
        const Vec other = swap_neighbours(v) * Vec::load(sin + i, lanes);
        put<past>(fma(v, Vec::load(cos + i, lanes), other), y + i, lanes);
    });
}

struct Rotation {
    const RopeSizes& n;
    float* y;
    const float *x, *cos, *sin;
    const std::int64_t* positions;
    std::int64_t start;
    float sign;  // of sin
    bool interleaved;

    // Row r = b * T + t: all heads of one position.
    template <bool past>
    void row(std::int64_t r) const {
        const std::int64_t b = r / n.T, t = r % n.T;
        const std::int64_t position = positions ? positions[r] : start + t;
        const float *c = cos + position * n.F, *s = sin + position * n.F;
        if (interleaved) spread(c, s);
        float* to = y + b * n.to.batch + t * n.to.row;
        const float* from = x + b * n.from.batch + t * n.from.row;
        for (std::int64_t h = 0; h < n.H; ++h, to += n.to.head, from += n.from.head) {
            if (interleaved) {
                rotate_neighbours<past>(to, from, c, s, 2 * n.F, n.from.row);
            } else {
                rotate_halves<past>(to, from, c, s, Vec::set(sign), n.F, n.from.row);
            }
            if (to == from) continue;
            const float* const rest = from + 2 * n.F;
            float* const rest_to = to + 2 * n.F;
            for_words(n.D - 2 * n.F, [=](std::int64_t i, std::int64_t lanes) {
                put<past>(Vec::load(rest + i, lanes), rest_to + i, lanes);
            });
        }
    }

  private:
    // Replaces a row of the tables by one with two numbers for each pair: cos cos, -sin sin.
    void spread(const float*& c, const float*& s) const {
        float* const wide = scratch(static_cast<std::size_t>(4 * n.F));
        for (std::int64_t i = 0; i < n.F; ++i) {
            wide[2 * i] = wide[2 * i + 1] = c[i];
            wide[2 * n.F + 2 * i] = -sign * s[i];
            wide[2 * n.F + 2 * i + 1] = sign * s[i];
        }
        c = wide;
        s = wide + 2 * n.F;
    }
};

// Whether every part of every head of the result is a number of whole cache lines.
bool in_whole_lines(const float* y, const RopeSizes& n, bool interleaved) {
    const std::int64_t part = interleaved ? 2 * n.F : n.F;
    for (const std::int64_t length : {n.to.batch, n.to.row, n.to.head, part, n.D}) {
        if (length % kLineFloats != 0) return false;
    }
    return reinterpret_cast<std::uintptr_t>(y) % (kLineFloats * sizeof(float)) == 0;
}

void rotate(const char* kernel, const StridedOut& y, const StridedIn& x, const In& cos,
            const In& sin, const Maybe<In>& positions, std::int64_t start, bool interleaved,
            float sign) {
    const RopeSizes n(kernel, y, x, cos, positions, start);
    if (positions) require_ids(positions, n.N);
    const Rotation rotation{n,
                            y.as<float>(),
                            x.as<float>(),
                            cos.as<float>(),
                            sin.as<float>(),
                            positions.as<std::int64_t>(),
                            start,
                            sign,
                            interleaved};
    const bool past = place_for(rotation.y, y.size(), {rotation.x}) == Into::memory &&
                      in_whole_lines(rotation.y, n, interleaved);
    for_rows(n.B * n.T, n.H * n.D, [&](std::int64_t r) {
        if (past) {
            rotation.row<true>(r);
        } else {
            rotation.row<false>(r);
        }
    });
}

}  // namespace

void rope_forward(StridedOut y, StridedIn x, In cos, In sin, Maybe<In> positions,
                  std::int64_t start, bool interleaved, Stream) {
    rotate("rope_forward", y, x, cos, sin, positions, start, interleaved, 1.0f);
}

void rope_backward(StridedOut dx, StridedIn dy, In cos, In sin, Maybe<In> positions,
                   std::int64_t start, bool interleaved, Stream) {
    rotate("rope_backward", dx, dy, cos, sin, positions, start, interleaved, -1.0f);
}

}  // namespace byhand
