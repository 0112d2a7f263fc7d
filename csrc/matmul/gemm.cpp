#include "matmul/gemm.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/cache.h"
#include "matmul/gemm_activation.h"
#include "matmul/gemm_amx.h"
#include "matmul/gemm_few_rows.h"
#include "matmul/gemm_kernel.h"
#include "matmul/gemm_pack.h"
#include "threads/threads.h"

namespace byhand {
namespace {

// The approximate length of a block of K, in words: kRows rows of A of this length stay in the
// first-level cache.
constexpr std::int64_t kBlockK = Vec::width == 16 ? 384 : 320;
// The fraction of the second-level cache that a block of B fills; rows of A and of C pass through
// the rest. The width of a block does not affect the result, because each sum runs along K.
constexpr double kCachePart = 0.6;
// The kernel for few rows is used up to Operand::few_rows rows, and up to this part of K: the sum
// across lanes at the end of each dot product must be small beside K.
constexpr std::int64_t kFewRowsPart = 32;
// Packing is worth its cost only if each element is read often enough. Up to this many rows, a B
// whose rows are contiguous is read in place; up to this many columns, so is a transposed A. Of its
// cache lines, six rows use less than fourteen, so packing pays earlier with AVX2.
constexpr std::int64_t kInPlaceRows = 8 * kRows, kInPlaceCols = (Vec::width == 8 ? 4 : 8) * kPanel;
// Each rectangle's rows are cut into up to kChunks chunks of at least Operand::chunk_rows rows:
// enough for packing B again to be cheap when a thread helps another.
constexpr std::int64_t kChunks = 8;
// The least number of multiply-adds for which a thread is woken: about ten microseconds of work.
constexpr std::int64_t kThreadWork = 1 << 18;

using MicroKernel = void (*)(const MicroTile&);

template <class Operand, bool rows_adjacent, std::size_t... i>
constexpr std::array<MicroKernel, sizeof...(i)> micro_kernels(std::index_sequence<i...>) {
    return {micro_kernel<Operand, rows_adjacent, i / kPanelVecs + 1, i % kPanelVecs + 1>...};
}
using AllTiles = std::make_index_sequence<kRows * kPanelVecs>;
template <class Operand, bool rows_adjacent>
constexpr auto kMicroKernels = micro_kernels<Operand, rows_adjacent>(AllTiles{});

// One tile of C of this many rows. prefetch(i) prefetches what its row i needs at the end.
template <class Operand, class Prefetch>
void multiply_tile(Operand, const MicroTile& t, int rows, const Prefetch& prefetch) {
    for (int i = 0; i < rows; ++i) prefetch(i);
    const auto& kernels =
        t.a.col_stride == 1 ? kMicroKernels<Operand, false> : kMicroKernels<Operand, true>;
    const std::int64_t vecs = (t.cols + Vec::width - 1) / Vec::width;
    kernels[static_cast<std::size_t>((rows - 1) * kPanelVecs + vecs - 1)](t);
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Problem {
    float* c;
    Matrix a, b;
    std::int64_t M, N, K;
    Epilogue epilogue;
};

struct Range {
    std::int64_t begin, end;
};

void finish(const Problem& p, Range rows, Range cols) {
    activate(p.c, p.epilogue,
             {rows.begin * p.N + cols.begin, p.N, rows.end - rows.begin, cols.end - cols.begin});
}

// The current block of B. Its panels are packed, or complete panels are read in place.
struct Block {
    Range ks, cols;
    const float* panels;
    bool in_place;
};

// Prefetches the rows of A that are needed next into the second-level cache, a part with each row
// of a tile, so that memory is busy while the micro-kernel computes.
class Ahead {
  public:
    // Prefetches the first `rows` x `cols` elements of a in so many parts.
    Ahead(Matrix a, std::int64_t rows, std::int64_t cols, std::int64_t parts)
        : row_(a.data),
          stride_(a.row_stride),
          rows_(rows),
          cols_(cols),
          share_(ceil_div(rows * ceil_div(cols, kLineFloats), parts)) {}

    void fetch() {
        for (std::int64_t i = 0; i < share_ && rows_ > 0; ++i) {
            __builtin_prefetch(row_ + col_, 0, 2);
            col_ += kLineFloats;
            if (col_ >= cols_) {
                col_ = 0;
                row_ += stride_;
                --rows_;
            }
        }
    }

  private:
    const float* row_;
    std::int64_t stride_, rows_, cols_, share_, col_ = 0;
};

// Multiplies the rows `rows` of A, whose words are at `a`, by every panel of a block of B.
template <class Operand>
void multiply_rows(const Problem& p, Range rows, const Block& block, Matrix a, Ahead& ahead) {
    const Range ks = block.ks, cols = block.cols;
    const bool first = ks.begin == 0;
    const bool activates = ks.end == p.K && p.epilogue.activation != Epilogue::Activation::none;
    const std::int64_t count = rows.end - rows.begin;
    MicroTile t;
    t.steps = steps_of<Operand>(ks.end - ks.begin);
    t.a = a;
    t.c_stride = p.N;
    for (std::int64_t n = cols.begin; n < cols.end; n += kPanel) {
        const bool in_place = block.in_place && n + kPanel <= cols.end;
        t.b = in_place ? p.b.at(ks.begin, n).data
                       : block.panels + (n - cols.begin) / kPanel * panel_stride<kPanel>(t.steps);
        t.b_stride = in_place ? p.b.row_stride : kPanel;
        const std::int64_t at = rows.begin * p.N + n;
        t.c = p.c + at;
        t.cols = std::min<std::int64_t>(kPanel, cols.end - n);
        // The epilogue's terms are added with the first block, so that `add` may be C itself.
        t.bias = first && p.epilogue.bias ? p.epilogue.bias + n : nullptr;
        t.add = !first ? t.c : p.epilogue.add ? p.epilogue.add + at : nullptr;
        // The tile of C is needed only after K steps, so there is time to prefetch it, and what the
        // activation reads.
        const auto prefetch = [&](int i) {
            for (std::int64_t j = 0; j < t.cols; j += 16) {
                __builtin_prefetch(t.c + i * p.N + j, 1);
                if (!activates) continue;
                if (p.epilogue.saved) __builtin_prefetch(p.epilogue.saved + at + i * p.N + j);
                if (p.epilogue.up) __builtin_prefetch(p.epilogue.up + at + i * p.N + j);
            }
            ahead.fetch();
        };
        multiply_tile(Operand{}, t, static_cast<int>(count), prefetch);
        if (activates) finish(p, rows, {n, n + t.cols});
    }
}

struct Grid {
    std::int64_t rows, cols;
};

// The grid of at most `threads` rectangles that minimises the cost of the largest rectangle: its
// area, plus the cost of packing its share of the operands in the same unit.
template <class Operand>
Grid choose_grid(const Problem& p, std::int64_t threads) {
    const std::int64_t reading =
        p.a.col_stride == 1 ? Operand::reading : Operand::reading_transposed;
    Grid best{1, 1};
    std::int64_t best_cost = INT64_MAX;
    for (std::int64_t r = 1; r <= threads; ++r) {
        const Grid g{r, threads / r};
        const std::int64_t m = ceil_div(ceil_div(p.M, Operand::rows), g.rows) * Operand::rows;
        const std::int64_t n = ceil_div(ceil_div(p.N, kPanel), g.cols) * kPanel;
        const std::int64_t cost = m * n + Operand::packing * n + reading * m;
        if (cost < best_cost) {
            best_cost = cost;
            best = g;
        }
    }
    return best;
}

// Part `index` of `parts` of [0, n), cut at multiples of `unit`.
Range part(std::int64_t n, std::int64_t unit, std::int64_t index, std::int64_t parts) {
    const std::int64_t units = ceil_div(n, unit);
    return {std::min(n, units * index / parts * unit),
            std::min(n, units * (index + 1) / parts * unit)};
}

// How a product is cut. Each rectangle of the grid consists of `strips` strips of columns, and each
// strip of `chunks` chunks of rows.
struct Plan {
    Grid grid;
    std::int64_t strips, chunks;
    std::int64_t unit;    // chunks are cut at multiples of it
    std::int64_t length;  // of a block of K
    bool a_in_place, b_in_place;
};

template <class Operand>
Plan make_plan(const Problem& p) {
    const std::int64_t work = p.M * p.N * std::max<std::int64_t>(p.K, 1);
    const Grid grid =
        choose_grid<Operand>(p, std::min<std::int64_t>(num_threads(), 1 + work / kThreadWork));
    const std::int64_t rows = ceil_div(p.M, grid.rows), cols = ceil_div(p.N, grid.cols);
    const std::int64_t all_steps = ceil_div(p.K, Operand::depth);
    const std::int64_t blocks = std::max<std::int64_t>(1, (all_steps + kBlockK / 2) / kBlockK);
    const std::int64_t steps = std::max<std::int64_t>(
        1, ceil_div(ceil_div(all_steps, blocks), Operand::step_unit) * Operand::step_unit);
    const auto cached =
        static_cast<std::int64_t>(kCachePart * second_level_cache() / sizeof(float));
    const std::int64_t most = std::max<std::int64_t>(kPanel, cached / steps / kPanel * kPanel);
    return {grid, ceil_div(cols, most),
            std::clamp<std::int64_t>(rows / Operand::chunk_rows, 1, kChunks),
            // A transposed A is packed several tiles at a time.
            p.a.col_stride != 1 && rows >= 4 * Operand::packed_rows ? Operand::packed_rows
                                                                    : Operand::rows,
            steps * Operand::depth,
            Operand::in_place && (p.a.col_stride == 1 || cols <= kInPlaceCols),
            Operand::in_place && p.b.col_stride == 1 && rows <= kInPlaceRows};
}

// Multiplies on one thread: chunks of a block of K, each with the block of B of its strip, which is
// packed again only when the strip changes.
template <class Operand>
class Worker {
  public:
    Worker(const Problem& p, const Plan& plan, Range ks)
        : p_(p), plan_(plan), ks_(ks), steps_(steps_of<Operand>(ks.end - ks.begin)) {
        const std::int64_t most = ceil_div(ceil_div(p.N, kPanel), plan.grid.cols * plan.strips);
        const std::int64_t size_b = most * panel_stride<kPanel>(steps_);
        const std::int64_t size_a = plan.a_in_place ? 0
                                    : Operand::packed_along || a_along()
                                        ? height() * row_stride(steps_)
                                        : height() / kRows * panel_stride<kRows>(steps_);
        panels_ = scratch(static_cast<std::size_t>(size_b + size_a));
        row_panels_ = panels_ + size_b;
    }

    // Strip `strip` of all strips, and these rows.
    void multiply(std::int64_t strip, Range rows) {
        if (rows.begin == rows.end) return;
        if (strip != packed_) pack(packed_ = strip);
        if (block_.cols.begin == block_.cols.end) return;
        const std::int64_t panels = ceil_div(block_.cols.end - block_.cols.begin, kPanel);
        const std::int64_t most = plan_.a_in_place && !a_along() ? rows.end - rows.begin : height();
        for (std::int64_t m0 = rows.begin; m0 < rows.end; m0 += most) {
            const std::int64_t m1 = std::min(m0 + most, rows.end), K = ks_.end - ks_.begin;
            if (!plan_.a_in_place) pack_a(m0, K, m1 - m0);
            // The rows after these are probably this thread's next.
            Ahead ahead(p_.a.at(m1, ks_.begin), a_along() ? std::min(most, p_.M - m1) : 0, K,
                        panels * std::min(most, rows.end - m0));
            for (std::int64_t m = m0; m < m1; m += Operand::rows) {
                multiply_rows<Operand>(p_, {m, std::min(m + Operand::rows, m1)}, block_,
                                       plan_.a_in_place ? p_.a.at(m, ks_.begin) : packed_a(m - m0),
                                       ahead);
            }
        }
    }

  private:
    bool a_along() const { return p_.a.col_stride == 1; }
    // How many rows of A are packed at a time.
    std::int64_t height() const { return a_along() ? Operand::rows : Operand::packed_rows; }

    void pack_a(std::int64_t m, std::int64_t K, std::int64_t rows) {
        const Matrix a = p_.a.at(m, ks_.begin);
        if (a_along()) {
            pack_rows_along<Operand>(row_panels_, a, K, rows);
        } else if constexpr (Operand::packed_along) {
            pack_rows_across<Operand>(row_panels_, a, K, rows);
        } else {
            pack_rows<Operand>(row_panels_, a, K, rows, p_.M - m);
        }
    }

    // The packed words of A from this row of them.
    Matrix packed_a(std::int64_t row) const {
        if (Operand::packed_along || a_along()) {
            return row_major(row_panels_ + row * row_stride(steps_), row_stride(steps_));
        }
        return {row_panels_ + row / kRows * panel_stride<kRows>(steps_), 1, kRows};
    }

    void pack(std::int64_t strip) {
        const Range cols = part(p_.N, kPanel, strip, plan_.grid.cols * plan_.strips);
        block_ = {ks_, cols, panels_, plan_.b_in_place};
        // Only an incomplete last panel needs packing when B is read in place.
        const std::int64_t whole = plan_.b_in_place ? (cols.end - cols.begin) / kPanel : 0;
        const std::int64_t at = cols.begin + whole * kPanel;
        pack_panels<Operand>(panels_ + whole * panel_stride<kPanel>(steps_), p_.b.at(ks_.begin, at),
                             ks_.end - ks_.begin, cols.end - at);
    }

    const Problem& p_;
    const Plan& plan_;
    Range ks_;
    std::int64_t steps_;
    [[maybe_unused]] typename Operand::Registers registers_;
    float *panels_, *row_panels_;
    std::int64_t packed_ = -1;
    Block block_{};
};

// Strips [first, last) of every rectangle, one block of K.
template <class Operand>
void multiply(const Problem& p, const Plan& plan, Range ks, Range strips) {
    const Grid grid = plan.grid;
    const std::int64_t each = (strips.end - strips.begin) * plan.chunks;  // chunks of a rectangle
    parallel_claims(grid.rows * grid.cols * each, each, [&](Claims& claims) {
        Worker<Operand> worker(p, plan, ks);
        for (std::int64_t begin, end; claims.next(begin, end);) {
            for (std::int64_t i = begin; i < end; ++i) {
                const std::int64_t rectangle = i / each, strip = i % each / plan.chunks;
                worker.multiply(
                    rectangle % grid.cols * plan.strips + strips.begin + strip,
                    part(p.M, plan.unit, rectangle / grid.cols * plan.chunks + i % plan.chunks,
                         grid.rows * plan.chunks));
            }
        }
    });
}

template <class Operand>
void multiply_all(const Problem& p) {
    const std::int64_t M = p.M, N = p.N, K = p.K;
    const std::int64_t few = std::min<std::int64_t>(Operand::few_rows, K / kFewRowsPart);
    if (M <= few && p.a.col_stride == 1 && p.b.row_stride == 1) {
        parallel_for(
            N, std::max<std::int64_t>(kDotCols, kThreadWork / 4 / std::max<std::int64_t>(1, M * K)),
            [&](std::int64_t begin, std::int64_t end) {
                gemm_few_rows<Operand>(p.c, p.a, p.b, M, N, K, begin, end, p.epilogue);
                if (p.epilogue.activation != Epilogue::Activation::none) {
                    finish(p, {0, M}, {begin, end});
                }
            });
        return;
    }
    const Plan plan = make_plan<Operand>(p);
    // Threads must wait for each other between blocks of K. With one block all strips are computed
    // at once; with several, one strip of each rectangle at a time, so that C stays in the caches.
    const std::int64_t together = K <= plan.length ? plan.strips : 1;
    for (std::int64_t strip = 0; strip < plan.strips; strip += together) {
        std::int64_t k = 0;
        do {
            const Range ks{k, std::min(k + plan.length, K)};
            multiply<Operand>(p, plan, ks, {strip, strip + together});
            k = ks.end;
        } while (k < K);
    }
}

}  // namespace

void gemm(float* c, Matrix a, Matrix b, std::int64_t M, std::int64_t N, std::int64_t K,
          const Epilogue& epilogue, bool bf16) {
    if (M == 0 || N == 0) return;
    const Problem p{c, a, b, M, N, K, epilogue};
    if (!bf16) return multiply_all<Float32>(p);
#if defined(BYHAND_TILES)
    if (has_tiles()) return multiply_all<TiledBfloat16>(p);
#endif
    multiply_all<Bfloat16>(p);
}

void add_column_sums(float* sums, const float* x, std::int64_t R, std::int64_t N) {
    // Summing in blocks of rows reduces the rounding error of long sums.
    constexpr std::int64_t kBlock = 128;
    constexpr int kVecs = 4, W = Vec::width;
    const std::int64_t strips = ceil_div(N, kVecs * W);
    const std::int64_t grain =
        std::max<std::int64_t>(1, kThreadWork / 4 / std::max<std::int64_t>(1, R * kVecs * W));
    parallel_for(strips, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t strip = begin; strip < end; ++strip) {
            const std::int64_t j = strip * kVecs * W;
            Vec total[kVecs];
            for (int v = 0; v < kVecs; ++v) total[v] = Vec::load(sums + j + v * W, N - j - v * W);
            for (std::int64_t r = 0; r < R; r += kBlock) {
                Vec sum[kVecs];
                for (int v = 0; v < kVecs; ++v) sum[v] = Vec::zero();
                for (std::int64_t i = r; i < std::min(r + kBlock, R); ++i) {
                    for (int v = 0; v < kVecs; ++v) {
                        sum[v] += Vec::load(x + i * N + j + v * W, N - j - v * W);
                    }
                }
                for (int v = 0; v < kVecs; ++v) total[v] += sum[v];
            }
            for (int v = 0; v < kVecs; ++v) total[v].store(sums + j + v * W, N - j - v * W);
        }
    });
}

void add_linear_gradients(float* dw, float* db, const float* dy, const float* x, std::int64_t R,
                          std::int64_t N, std::int64_t K, bool bf16) {
    if (dw) {
        Epilogue accumulate;
        accumulate.add = dw;
        gemm(dw, row_major(dy, N).transposed(), row_major(x, K), N, K, R, accumulate, bf16);
    }
    if (db) add_column_sums(db, dy, R, N);
}

}  // namespace byhand
