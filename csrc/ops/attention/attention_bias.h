// The gradient of the bias over a rectangle of queries and keys: ds, added up over the heads and
// batch entries that share the bias, one after the other. ds is recomputed as in the backward pass.
#pragma once

#include "ops/attention/attention_backward.h"

namespace byhand {
namespace tiles {

// The unit of work of one thread: queries [i0, i0 + queries) and keys [j0, j0 + keys) of the bias
// of batch entry b and head h, which are those of the bias, not of the queries.
struct Rectangle {
    int64_t b, h, i0, queries, j0, keys;
};

// Adds ds of the queries and keys that are in both the rectangle and the piece.
inline void add_piece(float* sums, int64_t stride, const BackwardScratch& w, const Gradients& g,
                      const Problem& p, const Rectangle& r, const Piece& piece, int64_t h) {
    const int64_t bh = piece.b * p.H + h, bg = p.group_of(bh);
    const Rows k = p.group(p.k, bg), v = p.group(p.v, bg);
    const int64_t i_end = std::min(r.i0 + r.queries, piece.i_end);
    for (int64_t i0 = std::max(r.i0, piece.i_begin); i0 < i_end; i0 += kTile) {
        const QueryBlock block{bh, i0, std::min(kTile, i_end - i0)};
        turn_queries(w, g, p, block, 1.0f);
        const int64_t last = i0 + block.count - 1;
        const int64_t j_end = std::min(r.j0 + r.keys, p.keys_end(piece, bh, last));
        for (int64_t j0 = std::max(r.j0, p.first_tile(piece, i0)); j0 < j_end; j0 += kTile) {
            const Tile t = tile_at(p, bh, i0, block.count, j0, j_end);
            const Seen seen = p.mask ? look(p, t, w.work) : Seen::all;
            if (seen == Seen::none) continue;
            Ahead nothing(1);
            tile_gradient(w, p, t, seen, k.from(j0), v.from(j0), nothing);
            for (int64_t i = 0; i < t.columns(); i += Vec::width) {
                for (int64_t j = t.keys_begin(i); j < t.word_end(i); ++j) {
                    float* sum = sums + (j0 - r.j0 + j) * stride + i0 - r.i0 + i;
                    (Vec::load(sum) + Vec::load(w.ds + j * kTile + i)).store(sum);
                }
            }
        }
    }
}

// pieces: those of all batch entries, in their order.
inline void bias_gradient(const Gradients& g, const Problem& p, const std::vector<Piece>& pieces,
                          const Rectangle& r) {
    const BackwardScratch w(p.D);
    // The last word of a row of queries may extend past it.
    const int64_t stride = round_up(r.queries, kTile) + Vec::width;
    float* sums = scratch(static_cast<std::size_t>(r.keys * stride), 1);
    fill_zero(sums, r.keys * stride);
    const bool all_batches = g.dbias.shape[0] == 1, all_heads = g.dbias.shape[1] == 1;
    for (const Piece& piece : pieces) {
        if (!all_batches && piece.b != r.b) continue;
        for (int64_t h = all_heads ? 0 : r.h; h < (all_heads ? p.H : r.h + 1); ++h) {
            add_piece(sums, stride, w, g, p, r, piece, h);
        }
    }
    const int64_t heads = g.dbias.shape[1];
    float* y = g.dbias.as<float>() + ((r.b * heads + r.h) * p.T + r.i0) * p.S + r.j0;
    for (int64_t i = 0; i < r.queries; ++i) {
        for (int64_t j = 0; j < r.keys; ++j) y[i * p.S + j] = sums[j * stride + i];
    }
}

}  // namespace tiles
}  // namespace byhand
