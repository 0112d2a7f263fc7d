#include "ops/linear/packed_linear.h"

#include <algorithm>
#include <cstdint>

#include "core/cache.h"
#include "ops/linear/packed_format.h"
#include "ops/linear/packed_linear_pack.h"
#include "ops/linear/packed_linear_tile.h"
#include "simd/vec.h"
#include "threads/threads.h"

namespace byhand {
namespace {

// With more rows than a tile has, the sums are computed in pieces of about this many k, so that the
// tile's rows of x stay in the first-level cache.
constexpr std::int64_t kPieceK = 384;
// About so many rows pass over a strip of panels before the next strip; x of this many rows and
// kPieceK, and kStripPart of the second-level cache filled with weights, fit there together.
constexpr std::int64_t kChunkRows = 256;
constexpr double kStripPart = 0.4;
// The least number of multiply-adds of a chunk of work.
constexpr std::int64_t kThreadWork = 1 << 16;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Problem {
    PackedRows rows;
    const std::uint8_t* weights;
    std::int64_t panel;  // bytes of a panel
    std::int64_t M, N, K;
    float* y;
    const float *bias, *add;  // or null
};

struct Range {
    std::int64_t begin, end;
    std::int64_t size() const { return end - begin; }
};

// Part `index` of `parts` of [0, n).
Range part(std::int64_t n, std::int64_t index, std::int64_t parts) {
    return {n * index / parts, n * (index + 1) / parts};
}

// These rows of the columns of these panels, in pieces of K.
template <class Weights>
void multiply(const Problem& p, Range rows, Range panels, std::int64_t pieces) {
    constexpr std::int64_t depth = Weights::depth;
    const std::int64_t tiles = ceil_div(rows.size(), packed_rows<Weights>());
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
        const Range steps = part(ceil_div(p.K, depth), piece, pieces);
        const std::int64_t k = steps.begin * depth;
        PackedTile t;
        t.K = std::min(steps.end * depth, p.K) - k;
        t.first = piece == 0;
        t.stride = p.N;
        for (std::int64_t i = 0; i < tiles; ++i) {
            const Range tile = part(rows.size(), i, tiles);
            const std::int64_t row = rows.begin + tile.begin;
            t.rows = p.rows.from(row);
            t.rows.x += k;
            for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
                const std::int64_t col = panel * kPackedCols, at = row * p.N + col;
                t.weights = p.weights + panel * p.panel + steps.begin * Weights::step;
                t.col = 0;
                t.cols = p.N - col;
                t.c = p.y + at;
                t.bias = p.bias ? p.bias + col : nullptr;
                t.add = p.add ? p.add + at : nullptr;
                multiply_panel<Weights>(static_cast<int>(tile.size()), t);
            }
        }
    }
}

template <class Weights>
void multiply_all(const Problem& p) {
    const std::int64_t panels = ceil_div(p.N, kPackedCols);
    const bool one_tile = p.M <= packed_rows<Weights>();
    if (one_tile) {
        const std::int64_t work = std::max<std::int64_t>(1, p.M * p.K * kPackedCols);
        parallel_for(panels, ceil_div(kThreadWork, work),
                     [&](std::int64_t begin, std::int64_t end) {
                         multiply<Weights>(p, {0, p.M}, {begin, end}, 1);
                     });
        return;
    }
    const std::int64_t pieces =
        kIsInts<Weights> ? 1 : std::max<std::int64_t>(1, (p.K + kPieceK / 2) / kPieceK);
    const std::int64_t piece_bytes = std::max<std::int64_t>(1, p.panel / pieces);
    const auto cached = static_cast<std::int64_t>(kStripPart * second_level_cache());
    const std::int64_t most =
        std::clamp<std::int64_t>(cached / piece_bytes, 1, ceil_div(panels, num_threads()));
    const std::int64_t strips = ceil_div(panels, most), chunks = ceil_div(p.M, kChunkRows);
    parallel_for(strips * chunks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            multiply<Weights>(p, part(p.M, i % chunks, chunks), part(panels, i / chunks, strips),
                              pieces);
        }
    });
}

// x in groups of bytes, a block of rows at a time.
template <PackedFormat format>
void multiply_ints(Problem p, const float* x) {
    const std::int64_t M = p.M, G = packed_groups(p.K), block = std::min(M, kChunkRows);
    // Of each group a scale, a sum and a start, and 32 bytes.
    constexpr std::int64_t kOfGroup = 3 + kPackedGroup / 4;
    float* const scales = scratch(static_cast<std::size_t>(block * G * kOfGroup));
    float* const sums = scales + block * G;
    auto* const starts = reinterpret_cast<std::int32_t*>(sums + block * G);
    auto* const bytes = reinterpret_cast<std::int8_t*>(starts + block * G);
    p.rows.bytes = bytes;
    p.rows.scales = scales;
    p.rows.sums = sums;
    p.rows.starts = starts;
    p.rows.groups = G;
    const std::int64_t blocks = ceil_div(M, kChunkRows);
    for (std::int64_t b = 0; b < blocks; ++b) {
        const Range rows = part(M, b, blocks);
        parallel_for(rows.size() * G, kThreadWork / 16 / kPackedGroup,
                     [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t i = begin; i < end; ++i) {
                             const std::int64_t k = i % G * kPackedGroup;
                             const float* from = x + (rows.begin + i / G) * p.K + k;
                             const std::int32_t sum = quantise_row_group(bytes + i * kPackedGroup,
                                                                         scales[i], from, p.K - k);
                             sums[i] = scales[i] * static_cast<float>(sum);
                             starts[i] = -PackedInts<format>::zero * sum;
                         }
                     });
        p.M = rows.size();
        multiply_all<PackedInts<format>>(p);
        p.y += p.M * p.N;
        if (p.add) p.add += p.M * p.N;
    }
}

}  // namespace

void packed_linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, std::int64_t format,
                           Stream) {
    Problem p;
    p.M = x.rows();
    p.K = x.cols();
    p.N = y.cols();
    const PackedFormat of = packed_format(format, w, p.N, p.K);
    p.rows.x = x.as<float>();
    p.rows.stride = p.K;
    p.weights = reinterpret_cast<const std::uint8_t*>(w.as<std::int64_t>());
    p.panel = packed_panel(of, p.K);
    p.y = y.as<float>();
    p.bias = b.as<float>();
    p.add = add.as<float>();
    if (p.M == 0 || p.N == 0) return;
    switch (of) {
        case PackedFormat::float32:
            return multiply_all<PackedFloat32>(p);
        case PackedFormat::bf16:
            return multiply_all<PackedBf16>(p);
        case PackedFormat::int8:
            return multiply_ints<PackedFormat::int8>(p, p.rows.x);
        case PackedFormat::int4:
            return multiply_ints<PackedFormat::int4>(p, p.rows.x);
        case PackedFormat::int4_1:
            return multiply_ints<PackedFormat::int4_1>(p, p.rows.x);
    }
}

void packed_linear_pack(Mut words, In w, std::int64_t format, Stream) {
    const std::int64_t N = w.rows(), K = w.cols();
    const PackedFormat as = packed_format(format, words, N, K);
    auto* const to = reinterpret_cast<std::uint8_t*>(words.as<std::int64_t>());
    const float* const from = w.as<float>();
    const std::int64_t panel = packed_panel(as, K), work = std::max<std::int64_t>(1, panel);
    parallel_for(ceil_div(N, kPackedCols), ceil_div(kThreadWork, work),
                 [=](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) {
                         const std::int64_t col = i * kPackedCols;
                         pack_panel(to + i * panel, from + col * K, N - col, K, as);
                     }
                 });
}

}  // namespace byhand
