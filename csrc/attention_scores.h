// One tile of scores: which of its elements count, and how they are computed.
//
// Scores are kept transposed, s[j][i] for key j and query i, so that the lanes of a word are
// queries: maxima and sums over keys are then plain word operations, never across lanes, and the
// keys can be read where the caller has them.
//
// The causal rule, or the far end of a window, cuts a tile along a staircase. Products skip what
// lies beyond it in steps of kStrip; what a step overshoots has to be zero, so whoever turns scores
// into probabilities writes kStrip rows of zeros below the staircase. The near end of a window is a
// second staircase, but cuts nothing: few tiles meet it, and what lies before it is hidden in them
// as by a mask.
#pragma once

#include <cmath>

#include "attention_tiles.h"
#include "core/array.h"
#include "core/philox_words.h"
#include "core/vecmath.h"

namespace byhand {
namespace tiles {

constexpr int64_t kStrip = kBlock;
constexpr float kMinusInfinity = -INFINITY;

// Everything about a call but the tensors it writes.
struct Problem {
    StridedIn q, k, v;
    Maybe<StridedIn> mask;
    Maybe<In> lengths;
    float scale;
    bool causal;
    int64_t window;
    double dropout;
    std::uint64_t seed, offset;

    DropoutRule rule{dropout};
    int64_t B = q.shape[0], T = q.shape[1], H = q.shape[2], D = q.shape[3];
    int64_t S = k.shape[1], G = k.shape[2];
    int64_t group = H / std::max<int64_t>(G, 1);  // heads that share a head of the keys
    // Query i stands at key i + S - T and sees keys before that + future, and after that - past.
    int64_t past = window > 0 ? std::min(window, std::max(S, T)) : std::max(S, T);
    int64_t future = causal ? 1 : past;

    // Heads of the queries are numbered bh = b * H + h, those of the keys bg = b * G + g.
    int64_t heads() const { return B * H; }
    int64_t key_heads() const { return B * G; }
    // The keys that query i may see, as far as the mask is not asked: from first_key(i) on,
    // before keys_seen(bh, i), which may be less.
    int64_t first_key(int64_t i) const { return std::max<int64_t>(i + S - T - past + 1, 0); }
    int64_t keys_seen(int64_t bh, int64_t i) const {
        return std::clamp<int64_t>(i + S - T + future, 0, keys(bh));
    }
    // Where the tiles of the queries from i on begin.
    int64_t first_tile(int64_t i) const { return round_down(first_key(i), kTile); }
    // Head n of a (B, T, H, D) or (B, S, G, D) tensor.
    static Rows head(const StridedIn& x, int64_t n) {
        return {x.as<float>() + start(x, n), x.stride[1]};
    }
    static Target head(const StridedOut& x, int64_t n) {
        return {x.as<float>() + start(x, n), x.stride[1]};
    }
    // The same of a contiguous one, of T queries.
    Rows head(const In& x, int64_t bh) const { return {x.as<float>() + start(bh), H * D}; }
    Target head(const Out& x, int64_t bh) const { return {x.as<float>() + start(bh), H * D}; }
    // Where the mask says whether query i sees key j.
    const bool* seen(int64_t bh, int64_t i, int64_t j) const {
        return mask.as<bool>() + bh / H * mask.stride[0] + bh % H * mask.stride[1] +
               i * mask.stride[2] + j * mask.stride[3];
    }

  private:
    int64_t start(int64_t bh) const { return (bh / H * T * H + bh % H) * D; }
    static int64_t start(const Array& x, int64_t n) {
        return n / x.shape[2] * x.stride[0] + n % x.shape[2] * x.stride[2];
    }
    // How many keys the batch entry of head bh has.
    int64_t keys(int64_t bh) const {
        return lengths ? std::clamp<int64_t>(lengths.as<int64_t>()[bh / H], 0, S) : S;
    }
};

// Queries [i0, i0 + queries) against keys [j0, j0 + keys) of head bh.
struct Tile {
    int64_t bh, i0, j0, queries, keys;
    int64_t low, edge;  // query i sees the keys i + low <= j < i + edge, counted inside the tile

    int64_t columns() const { return padded(queries); }
    bool whole() const { return edge >= keys && low + queries <= 1; }
    int64_t keys_seen(int64_t i) const { return std::clamp<int64_t>(i + edge, 0, keys); }
    int64_t first_query(int64_t j) const { return std::clamp<int64_t>(j - edge + 1, 0, queries); }
    // Rows of scores that some lane of the word at column i sees.
    int64_t rows_at(int64_t i) const { return keys_seen(i + Vec::width - 1); }
};

// The tile of `queries` queries at (i0, j0), of the keys before j_end.
inline Tile tile_at(const Problem& p, int64_t bh, int64_t i0, int64_t queries, int64_t j0,
                    int64_t j_end) {
    const int64_t keys = std::min(kTile, j_end - j0);
    const int64_t diagonal = i0 - j0 + p.S - p.T;
    return {bh, i0, j0, queries, keys, diagonal - p.past + 1, diagonal + p.future};
}

// s[j][i] = a[j] . b[:, i] over D, for what the staircase leaves: the scores from keys and packed
// queries, and the backward pass's dp from values and packed do.
inline void scores(float* s, const Tile& t, Rows a, const float* b, int64_t D, Ahead& ahead) {
    for (int64_t j = 0; j < t.keys; j += kStrip) {
        const int64_t rows = std::min(kStrip, t.keys - j);
        const int64_t i = round_down(t.first_query(j), Vec::width);
        product(s + j * kTile + i, kTile, Straight{a.row(j), a.stride}, b + i, kTile, rows,
                t.columns() - i, D, Start::zero);
        ahead.step();
    }
}

// y[i] = or += sum_j x[j][i] b[j] for the queries of the tile: o from p and v, dq from ds and k.
inline void sum_over_keys(Target y, const Tile& t, const float* x, Rows b, int64_t width,
                          Start start, Ahead& ahead) {
    for (int64_t i = 0; i < t.queries; i += kStrip) {
        const int64_t rows = std::min(kStrip, t.queries - i);
        product(y.row(i), y.stride, Transposed{x + i, kTile}, b.data, b.stride, rows, width,
                t.keys_seen(i + rows - 1), start);
        ahead.step();
    }
}

// y[j] = or += sum_i x[j][i] b[i] for the keys of the tile: dv from p and do, dk from ds and q.
inline void sum_over_queries(Target y, const Tile& t, const float* x, Rows b, int64_t width,
                             Start start, Ahead& ahead) {
    for (int64_t j = 0; j < t.keys; j += kStrip) {
        const int64_t rows = std::min(kStrip, t.keys - j);
        const int64_t i = t.first_query(j);
        product(y.row(j), y.stride, Straight{x + j * kTile + i, kTile}, b.row(i), b.stride, rows,
                width, t.queries - i, start);
        ahead.step();
    }
}

inline void zero_below(float* x, const Tile& t, int64_t i) {
    const int64_t rows = t.rows_at(i), end = std::min(t.keys, rows + kStrip);
    for (int64_t j = rows; j < end; ++j) Vec::zero().store(x + j * kTile + i);
}

// Scores outside the staircases become -inf: all before the lower one, and beyond the upper one
// those in the words that it crosses.
inline void apply_edges(float* s, const Tile& t) {
    if (t.whole()) return;
    const Vec hidden = Vec::set(kMinusInfinity);
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t rows = t.rows_at(i), before = std::min(rows, i + Vec::width - 1 + t.low);
        for (int64_t j = 0; j < before; ++j) {
            float* word = s + j * kTile + i;
            select(Mask::first(j - t.low + 1 - i), Vec::load(word), hidden).store(word);
        }
        for (int64_t j = t.keys_seen(i); j < rows; ++j) {
            float* word = s + j * kTile + i;
            select(Mask::first(j - t.edge + 1 - i), hidden, Vec::load(word)).store(word);
        }
    }
}

// Which keys of a tile the mask shows to which of its queries.
enum class Seen { all, some, none };

// The mask of a row of keys, one word of it.
inline Mask seen_word(const bool* seen, int64_t stride, int64_t n) {
    if (stride == 1) return Mask::load(seen, n);
    bool gathered[Vec::width];
    for (int64_t j = 0; j < std::min<int64_t>(n, Vec::width); ++j) gathered[j] = seen[j * stride];
    return Mask::load(gathered, n);
}

// Looks at the mask of a tile before any score is computed, because a tile that nobody sees need
// not be. work[i][j] is 0 where query i sees key j, else -inf; one query stands for all of them if
// the mask is the same for all, as padding is.
inline Seen look(const Problem& p, const Tile& t, float* work) {
    const int64_t *stride = p.mask.stride, rows = stride[2] == 0 ? 1 : t.queries;
    bool all_seen = true, any_seen = false;
    for (int64_t i = 0; i < rows; ++i) {
        const bool* seen = p.seen(t.bh, t.i0 + i, t.j0);
        for (int64_t j = 0; j < t.keys; j += Vec::width) {
            const Mask word = seen_word(seen + j * stride[3], stride[3], t.keys - j);
            select(word, Vec::zero(), Vec::set(kMinusInfinity)).store(work + i * kTile + j);
            any_seen = any_seen || any(word);
            all_seen = all_seen && all(word | !Mask::first(t.keys - j));
        }
    }
    return all_seen ? Seen::all : any_seen ? Seen::some : Seen::none;
}

// Scores that the mask hides become -inf; work is what look() wrote, and one tile more.
inline void apply_mask(float* s, const Problem& p, const Tile& t, float* work) {
    if (p.mask.stride[2] == 0) {
        for (int64_t j = 0; j < t.keys; ++j) {
            if (work[j] != 0) std::fill_n(s + j * kTile, t.columns(), kMinusInfinity);
        }
        return;
    }
    float* turned = work + kTile * kTile;
    pack_transposed(turned, {work, kTile}, t.queries, t.keys, 1.0f);
    for (int64_t j = 0; j < t.keys; ++j) {
        for (int64_t i = 0; i < t.columns(); i += Vec::width) {
            const int64_t at = j * kTile + i;
            const Vec hidden = Vec::load(turned + at);
            select(hidden == Vec::zero(), Vec::load(s + at), hidden).store(s + at);
        }
    }
}

// The dropout factors of the keys [j0, j0 + keys) of one query, keys <= kTile; j0 is a multiple of
// kTile, so that a group of Philox never belongs to two tiles.
inline void draw_row(float* factors, const Problem& p, int64_t bh, int64_t i, int64_t j0,
                     int64_t keys) {
    static_assert(kTile % kPhiloxElements == 0);
    std::uint16_t bits[kTile];
    const int64_t groups = (p.S + kPhiloxElements - 1) / kPhiloxElements;
    const int64_t group = (bh * p.T + i) * groups + j0 / kPhiloxElements;
    philox_bits(bits, keys, p.seed, static_cast<std::uint64_t>(group), p.offset);
    for (int64_t j = 0; j < keys; ++j) factors[j] = p.rule.factor(bits[j]);
}

// factors[j][i] of the whole tile; work holds one tile.
inline void draw_tile(float* factors, const Problem& p, const Tile& t, float* work) {
    for (int64_t i = 0; i < t.queries; ++i) {
        draw_row(work + i * kTile, p, t.bh, t.i0 + i, t.j0, t.keys);
    }
    pack_transposed(factors, {work, kTile}, t.queries, t.keys, 1.0f);
}

inline void multiply_tile(float* x, const Tile& t, const float* factors) {
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t rows = t.rows_at(i);
        for (int64_t j = 0; j < rows; ++j) {
            const int64_t at = j * kTile + i;
            (Vec::load(x + at) * Vec::load(factors + at)).store(x + at);
        }
    }
}

}  // namespace tiles
}  // namespace byhand
