// One tile of scores: which queries see which keys, and how scores are computed.
//
// Scores are stored transposed, s[j][i] for key j and query i, so that the lanes of a word are
// queries: maxima and sums over keys are then lane by lane, and keys can be read in place.
//
// With causality or a window, query i sees only the keys j in [i + lower, i + upper), so the
// visible part of a tile is bounded by two staircases. Products skip invisible parts in steps of
// kStrip. Where a step extends past a staircase the factor must be zero, so the functions that
// compute probabilities write kStrip rows of zeros on either side of the visible rows.
#pragma once

#include <cmath>
#include <vector>

#include "core/array.h"
#include "ops/attention/attention_tiles.h"
#include "random/philox_words.h"
#include "simd/vecmath.h"

namespace byhand {
namespace tiles {

constexpr int64_t kStrip = kBlock;
constexpr float kMinusInfinity = -INFINITY;

// Queries [i_begin, i_end) of one batch entry and the keys [j_begin, j_end) that they may see: all
// of both, or one of the sequences packed in a row. Tiles are counted from its first query and key,
// so that a packed sequence gives the bits that it gives apart.
struct Piece {
    int64_t b, i_begin, i_end, j_begin, j_end;

    int64_t queries() const { return i_end - i_begin; }
    int64_t keys() const { return j_end - j_begin; }
    // The start of the tile that contains key j.
    int64_t tile_of(int64_t j) const { return j_begin + round_down(j - j_begin, kTile); }
};

// The arguments of a call, except the tensors that it writes.
struct Problem {
    StridedIn q, k, v;
    Maybe<StridedIn> mask;
    Maybe<In> lengths, slopes;
    Maybe<StridedIn> bias;
    Maybe<In> sequences;
    float scale;
    bool causal;
    int64_t window;
    float softcap;
    double dropout;
    std::uint64_t seed, offset;

    DropoutRule rule{dropout};
    int64_t B = q.shape[0], T = q.shape[1], H = q.shape[2], D = q.shape[3];
    int64_t S = k.shape[1], G = k.shape[2];
    int64_t shared = H / std::max<int64_t>(G, 1);  // query heads per head of keys
    const int64_t* length = lengths.as<int64_t>();
    // By causality and window, query i sees the keys in [i + lower, i + upper).
    int64_t reach = std::min(window, T + S);
    int64_t upper = causal ? S - T + 1 : reach > 0 ? S - T + reach : S;
    int64_t lower = reach > 0 ? S - T - reach + 1 : -T;

    int64_t heads() const { return B * H; }
    // A head of keys is called a group. The query heads that read it are first_head(bg) and the
    // following `shared - 1` ones.
    int64_t groups() const { return B * G; }
    int64_t group_of(int64_t bh) const { return bh / H * G + bh % H / shared; }
    int64_t first_head(int64_t bg) const { return bg / G * H + bg % G * shared; }
    // The number of keys of group bg; the rest of S is padding.
    int64_t keys(int64_t bg) const {
        return length == nullptr ? S : std::clamp<int64_t>(length[bg / G], 0, S);
    }
    // Without the mask, query i of head bh sees the keys [keys_begin, keys_end); both grow with i.
    int64_t keys_begin(int64_t i) const { return std::clamp<int64_t>(i + lower, 0, S); }
    int64_t keys_end(int64_t bh, int64_t i) const {
        return std::clamp<int64_t>(i + upper, 0, keys(group_of(bh)));
    }
    int64_t keys_end(const Piece& piece, int64_t bh, int64_t i) const {
        return std::clamp<int64_t>(keys_end(bh, i), piece.j_begin, piece.j_end);
    }
    // The first tile of keys that the queries from i on see.
    int64_t first_tile(const Piece& piece, int64_t i) const {
        return piece.tile_of(std::max(piece.j_begin, keys_begin(i)));
    }
    Piece whole(int64_t b) const { return {b, 0, T, 0, S}; }
    // The sequences packed in the rows, in their order.
    std::vector<Piece> packed() const {
        std::vector<Piece> pieces;
        const int64_t* id = sequences.as<int64_t>();
        for (int64_t b = 0; b < B; ++b, id += T) {
            for (int64_t i = 0, end = 0; i < T; i = end) {
                for (end = i; end < T && id[end] == id[i]; ++end) {
                }
                pieces.push_back({b, i, end, i, end});
            }
        }
        return pieces;
    }

    // Head bh of a (B, T, H, D) tensor.
    Rows head(const StridedIn& x, int64_t bh) const { return rows(x, bh / H, bh % H); }
    Target head(const StridedOut& x, int64_t bh) const { return rows(x, bh / H, bh % H); }
    // Group bg of a (B, S, G, D) tensor.
    Rows group(const StridedIn& x, int64_t bg) const { return rows(x, bg / G, bg % G); }
    Target group(const StridedOut& x, int64_t bg) const { return rows(x, bg / G, bg % G); }
    // The same for a contiguous tensor of T queries.
    Rows head(const In& x, int64_t bh) const { return {x.as<float>() + start(bh), H * D}; }
    Target head(const Out& x, int64_t bh) const { return {x.as<float>() + start(bh), H * D}; }
    // Whether anything acts on the scores before the masks.
    bool adjusts() const { return softcap > 0 || slopes || bias; }
    // The element of the bias for query i and key j.
    const float* bias_at(int64_t bh, int64_t i, int64_t j) const {
        const int64_t b = bias.shape[0] == 1 ? 0 : bh / H, h = bias.shape[1] == 1 ? 0 : bh % H;
        return bias.as<float>() + b * bias.stride[0] + h * bias.stride[1] + i * bias.stride[2] +
               j * bias.stride[3];
    }
    // The element of the mask for query i and key j.
    const bool* seen(int64_t bh, int64_t i, int64_t j) const {
        return mask.as<bool>() + bh / H * mask.stride[0] + bh % H * mask.stride[1] +
               i * mask.stride[2] + j * mask.stride[3];
    }

  private:
    static Rows rows(const StridedIn& x, int64_t b, int64_t h) {
        return {x.as<float>() + b * x.stride[0] + h * x.stride[2], x.stride[1]};
    }
    static Target rows(const StridedOut& x, int64_t b, int64_t h) {
        return {x.as<float>() + b * x.stride[0] + h * x.stride[2], x.stride[1]};
    }
    int64_t start(int64_t bh) const { return (bh / H * T * H + bh % H) * D; }
};

// Queries [i0, i0 + queries) against keys [j0, j0 + keys) of head bh.
struct Tile {
    int64_t bh, i0, j0, queries, keys;
    // Query i sees the keys j with i + lower <= j < i + upper, counted from the tile's first ones.
    int64_t lower, upper;

    int64_t columns() const { return padded(queries); }
    int64_t keys_begin(int64_t i) const { return std::clamp<int64_t>(i + lower, 0, keys); }
    int64_t keys_end(int64_t i) const { return std::clamp<int64_t>(i + upper, 0, keys); }
    int64_t queries_begin(int64_t j) const {
        return std::clamp<int64_t>(j - upper + 1, 0, queries);
    }
    int64_t queries_end(int64_t j) const { return std::clamp<int64_t>(j - lower + 1, 0, queries); }
    // The rows of scores that some lane of the word at column i sees are keys_begin(i) up to:
    int64_t word_end(int64_t i) const { return keys_end(i + Vec::width - 1); }
};

// The tile of `queries` queries at (i0, j0), with keys before j_end.
inline Tile tile_at(const Problem& p, int64_t bh, int64_t i0, int64_t queries, int64_t j0,
                    int64_t j_end) {
    const int64_t keys = std::min(kTile, j_end - j0);
    return {bh, i0, j0, queries, keys, i0 - j0 + p.lower, i0 - j0 + p.upper};
}

// s[j][i] = a[j] . b[:, i] over D, in the visible part of the tile: the scores from keys and packed
// queries, and the backward pass's dp from values and packed do.
inline void scores(float* s, const Tile& t, Rows a, const float* b, int64_t D, Ahead& ahead) {
    for (int64_t j = 0; j < t.keys; j += kStrip) {
        const int64_t rows = std::min(kStrip, t.keys - j);
        const int64_t i = round_down(t.queries_begin(j), Vec::width);
        product(s + j * kTile + i, kTile, Straight{a.row(j), a.stride}, b + i, kTile, rows,
                padded(t.queries_end(j + rows - 1)) - i, D, Start::zero);
        ahead.step();
    }
}

// y[i] = or += sum_j x[j][i] b[j] for the queries of the tile: o from p and v, dq from ds and k.
inline void sum_over_keys(Target y, const Tile& t, const float* x, Rows b, int64_t width,
                          Start start, Ahead& ahead) {
    for (int64_t i = 0; i < t.queries; i += kStrip) {
        const int64_t rows = std::min(kStrip, t.queries - i);
        const int64_t j = t.keys_begin(i);
        product(y.row(i), y.stride, Transposed{x + j * kTile + i, kTile}, b.row(j), b.stride, rows,
                width, t.keys_end(i + rows - 1) - j, start);
        ahead.step();
    }
}

// y[j] = or += sum_i x[j][i] b[i] for the keys of the tile: dv from p and do, dk from ds and q.
inline void sum_over_queries(Target y, const Tile& t, const float* x, Rows b, int64_t width,
                             Start start, Ahead& ahead) {
    for (int64_t j = 0; j < t.keys; j += kStrip) {
        const int64_t rows = std::min(kStrip, t.keys - j);
        const int64_t i = t.queries_begin(j);
        product(y.row(j), y.stride, Straight{x + j * kTile + i, kTile}, b.row(i), b.stride, rows,
                width, t.queries_end(j + rows - 1) - i, start);
        ahead.step();
    }
}

inline void zero_around(float* x, const Tile& t, int64_t i) {
    const int64_t begin = t.keys_begin(i), end = t.word_end(i);
    for (int64_t j = std::max<int64_t>(begin - kStrip, 0); j < begin; ++j) {
        Vec::zero().store(x + j * kTile + i);
    }
    for (int64_t j = end; j < std::min(end + kStrip, t.keys); ++j) {
        Vec::zero().store(x + j * kTile + i);
    }
}

// Sets the invisible scores to -inf in words that are partly visible.
inline void apply_staircases(float* s, const Tile& t) {
    const Vec hidden = Vec::set(kMinusInfinity);
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        for (int64_t j = t.keys_begin(i); j < t.keys_begin(i + Vec::width - 1); ++j) {
            float* word = s + j * kTile + i;
            select(Mask::first(j - t.lower + 1 - i), Vec::load(word), hidden).store(word);
        }
        for (int64_t j = t.keys_end(i); j < t.word_end(i); ++j) {
            float* word = s + j * kTile + i;
            select(Mask::first(j - t.upper + 1 - i), hidden, Vec::load(word)).store(word);
        }
    }
}

// Whether the mask hides all keys of a tile from all of its queries. Most tiles that are not hidden
// are known by their first row.
inline bool hidden(const Problem& p, const Tile& t) {
    const int64_t *stride = p.mask.stride, rows = stride[2] == 0 ? 1 : t.queries;
    for (int64_t i = 0; i < rows; ++i) {
        const bool* seen = p.seen(t.bh, t.i0 + i, t.j0);
        bool any_seen = false;
        if (stride[3] == 1) {
            any_seen = std::memchr(seen, 1, static_cast<std::size_t>(t.keys)) != nullptr;
        } else {
            for (int64_t j = 0; j < t.keys; ++j) any_seen = any_seen || seen[j * stride[3]];
        }
        if (any_seen) return false;
    }
    return true;
}

// Whether the mask lets the queries of a tile see its keys.
enum class Seen { all, some, none };

// One vector of the mask.
inline Mask seen_word(const bool* seen, int64_t stride, int64_t n) {
    if (stride == 1) return Mask::load(seen, n);
    bool gathered[Vec::width];
    for (int64_t j = 0; j < std::min<int64_t>(n, Vec::width); ++j) gathered[j] = seen[j * stride];
    return Mask::load(gathered, n);
}

// Reads the mask of a tile before any score is computed, so that a fully masked tile is skipped.
// work[i][j] is 0 where query i sees key j, else -inf. If the mask is the same for all queries, as
// a padding mask is, only one row is read and written.
inline Seen look(const Problem& p, const Tile& t, float* work) {
    if (hidden(p, t)) return Seen::none;
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

// Sets masked scores to -inf. work holds what look() wrote, and one more tile.
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

// The dropout factors of the keys [j0, j0 + keys) of one query, keys <= kTile. Unless sequences are
// packed, j0 is a multiple of kTile, and no group of Philox belongs to two tiles.
inline void draw_row(float* factors, const Problem& p, int64_t bh, int64_t i, int64_t j0,
                     int64_t keys) {
    static_assert(kTile % kPhiloxElements == 0);
    std::uint16_t bits[kTile + kPhiloxElements];
    const int64_t before = j0 % kPhiloxElements;
    const int64_t groups = (p.S + kPhiloxElements - 1) / kPhiloxElements;
    const int64_t group = (bh * p.T + i) * groups + j0 / kPhiloxElements;
    philox_bits(bits, before + keys, p.seed, static_cast<std::uint64_t>(group), p.offset);
    for (int64_t j = 0; j < keys; ++j) factors[j] = p.rule.factor(bits[before + j]);
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
        const int64_t end = t.word_end(i);
        for (int64_t j = t.keys_begin(i); j < end; ++j) {
            const int64_t at = j * kTile + i;
            (Vec::load(x + at) * Vec::load(factors + at)).store(x + at);
        }
    }
}

}  // namespace tiles
}  // namespace byhand
