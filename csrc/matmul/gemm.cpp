#include "matmul/gemm.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/cache.h"
#include "matmul/gemm_few_rows.h"
#include "matmul/gemm_kernel.h"
#include "matmul/gemm_pack.h"
#include "simd/vecmath.h"
#include "threads/threads.h"

namespace byhand {
namespace {

// The approximate length of a block of K, in words: kRows rows of A of this length stay in the
// first-level cache.
constexpr std::int64_t kBlockK = Vec::width == 16 ? 384 : 320;
// The fraction of the second-level cache that a block of B fills; rows of A and of C pass through
// the rest. The width of a block does not affect the result, because each sum runs along K.
constexpr double kCachePart = 0.6;
// The kernel for few rows is used up to this many rows, and up to K / 32: packing B costs about as
// much as multiplying it by this many rows, and the sum across lanes at the end of each dot product
// must be small beside K.
constexpr std::int64_t kFewRows = 16;
// Packing is worth its cost only if each element is read often enough. Up to this many rows, a B
// whose rows are contiguous is read in place; up to this many columns, so is a transposed A.
constexpr std::int64_t kInPlaceRows = 8 * kRows, kInPlaceCols = 8 * kPanel;
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

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t unit) { return ceil_div(a, unit) * unit; }

struct Problem {
    float* c;
    Matrix a, b;
    std::int64_t M, N, K;
    Epilogue epilogue;
};

struct Range {
    std::int64_t begin, end;
};

template <Vec (*gelu)(Vec), Vec (*derivative)(Vec)>
void activate(const Problem& p, Range rows, Range cols) {
    const bool forward = p.epilogue.activation == Epilogue::Activation::gelu;
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
        for (std::int64_t j = cols.begin; j < cols.end; j += Vec::width) {
            const std::int64_t at = i * p.N + j, n = cols.end - j;
            const Vec x = Vec::load(p.c + at, n);
            if (forward) {
                gelu(x).store(p.epilogue.activated + at, n);
            } else {
                const Vec u = Vec::load(p.epilogue.saved + at, n);
                gelu(u).store(p.epilogue.activated + at, n);
                (x * derivative(u)).store(p.c + at, n);
            }
        }
    }
}

void finish(const Problem& p, Range rows, Range cols) {
    if (p.epilogue.activation == Epilogue::Activation::none) return;
    if (p.epilogue.tanh) {
        activate<gelu_tanh, gelu_tanh_derivative>(p, rows, cols);
    } else {
        activate<gelu_erf, gelu_erf_derivative>(p, rows, cols);
    }
}

// The current block of B. Its panels are packed, or complete panels are read in place.
struct Block {
    Range ks, cols;
    const float* panels;
    bool in_place;
};

// Prefetches the rows of A that are needed next into the second-level cache, a part at each tile,
// so that memory is busy while the micro-kernel computes.
class Ahead {
  public:
    // Prefetches the first `rows` x `cols` elements of a during the next `tiles` tiles.
    Ahead(Matrix a, std::int64_t rows, std::int64_t cols, std::int64_t tiles)
        : row_(a.data),
          stride_(a.row_stride),
          rows_(rows),
          cols_(cols),
          share_(ceil_div(rows * ceil_div(cols, kLine), tiles)) {}

    void fetch() {
        for (std::int64_t i = 0; i < share_ && rows_ > 0; ++i) {
            __builtin_prefetch(row_ + col_, 0, 2);
            col_ += kLine;
            if (col_ >= cols_) {
                col_ = 0;
                row_ += stride_;
                --rows_;
            }
        }
    }

  private:
    static constexpr std::int64_t kLine = 64 / sizeof(float);
    const float* row_;
    std::int64_t stride_, rows_, cols_, share_, col_ = 0;
};

// Multiplies the rows `rows` of A, whose words are at `a`, by every panel of a block of B.
template <class Operand>
void multiply_rows(const Problem& p, Range rows, const Block& block, Matrix a, Ahead& ahead) {
    const Range ks = block.ks, cols = block.cols;
    const bool first = ks.begin == 0, last = ks.end == p.K;
    const auto& kernels =
        a.col_stride == 1 ? kMicroKernels<Operand, false> : kMicroKernels<Operand, true>;
    const std::int64_t count = rows.end - rows.begin;
    MicroTile t;
    t.steps = ceil_div(ks.end - ks.begin, Operand::depth);
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
        // The tile of C is needed only after K steps, so there is time to prefetch it.
        for (std::int64_t i = 0; i < count; ++i) {
            for (std::int64_t j = 0; j < t.cols; j += 16) __builtin_prefetch(t.c + i * p.N + j, 1);
        }
        ahead.fetch();
        const std::int64_t vecs = ceil_div(t.cols, Vec::width);
        kernels[(count - 1) * kPanelVecs + vecs - 1](t);
        if (last) finish(p, rows, {n, n + t.cols});
    }
}

// Computes one thread's rectangle of C.
template <class Operand>
void multiply(const Problem& p, Range rows, Range cols) {
    const std::int64_t columns = cols.end - cols.begin;
    const bool a_along = p.a.col_stride == 1;
    const bool a_in_place = Operand::in_place && (a_along || columns <= kInPlaceCols);
    const bool b_in_place =
        Operand::in_place && p.b.col_stride == 1 && rows.end - rows.begin <= kInPlaceRows;
    const std::int64_t all_steps = ceil_div(p.K, Operand::depth);
    const std::int64_t blocks = std::max<std::int64_t>(1, (all_steps + kBlockK / 2) / kBlockK);
    const std::int64_t steps = std::max<std::int64_t>(1, ceil_div(all_steps, blocks));
    const std::int64_t length = steps * Operand::depth;
    const auto room = static_cast<std::int64_t>(kCachePart * second_level_cache() / sizeof(float));
    const std::int64_t most = std::max<std::int64_t>(kPanel, room / steps / kPanel * kPanel);
    const std::int64_t width = round_up(ceil_div(columns, ceil_div(columns, most)), kPanel);
    // How many rows of A are processed at a time, and where their words are.
    const std::int64_t height = a_along      ? kRows
                                : a_in_place ? rows.end - rows.begin
                                             : kRowPanels * kRows;
    const std::int64_t room_b = width / kPanel * panel_stride<kPanel>(steps);
    const std::int64_t room_a = a_in_place ? 0
                                : a_along  ? kRows * row_stride(steps)
                                           : kRowPanels * panel_stride<kRows>(steps);
    float* panels = scratch(static_cast<std::size_t>(room_b + room_a));
    float* row_panels = panels + room_b;

    for (std::int64_t n = cols.begin; n < cols.end; n += width) {
        std::int64_t k = 0;
        do {
            const Block block{{k, std::min(k + length, p.K)},
                              {n, std::min(n + width, cols.end)},
                              panels,
                              b_in_place};
            const std::int64_t K = block.ks.end - k, words = ceil_div(K, Operand::depth);
            // Only an incomplete last panel needs packing when B is read in place.
            const std::int64_t whole = b_in_place ? (block.cols.end - n) / kPanel : 0;
            pack_panels<Operand>(panels + whole * panel_stride<kPanel>(words),
                                 p.b.at(k, n + whole * kPanel), K,
                                 block.cols.end - n - whole * kPanel);
            for (std::int64_t m0 = rows.begin; m0 < rows.end; m0 += height) {
                const std::int64_t m1 = std::min(m0 + height, rows.end);
                const Matrix a = p.a.at(m0, k);
                if (!a_in_place && a_along) pack_rows_along<Operand>(row_panels, a, K, m1 - m0);
                if (!a_in_place && !a_along) {
                    pack_rows<Operand>(row_panels, a, K, m1 - m0, p.M - m0);
                }
                Ahead ahead(p.a.at(m1, k), a_along ? std::min(height, rows.end - m1) : 0, K,
                            ceil_div(block.cols.end - n, kPanel));
                for (std::int64_t m = m0; m < m1; m += kRows) {
                    const std::int64_t panel = (m - m0) / kRows * panel_stride<kRows>(words);
                    multiply_rows<Operand>(p, {m, std::min(m + kRows, m1)}, block,
                                           a_in_place ? p.a.at(m, k)
                                           : a_along  ? row_major(row_panels, row_stride(words))
                                                      : Matrix{row_panels + panel, 1, kRows},
                                           ahead);
                }
            }
            k = block.ks.end;
        } while (k < p.K);
    }
}

struct Grid {
    std::int64_t rows, cols;
};

// The grid of at most `threads` rectangles that minimises the cost of the largest rectangle: its
// area, plus the cost of packing its share of the operands in the same unit (packing one element
// takes as long as about 16 multiply-adds).
Grid choose_grid(const Problem& p, std::int64_t threads) {
    const std::int64_t packing = 16, reading = p.a.col_stride == 1 ? 2 : 8;
    Grid best{1, 1};
    std::int64_t best_cost = INT64_MAX;
    for (std::int64_t r = 1; r <= threads; ++r) {
        const Grid g{r, threads / r};
        const std::int64_t m = ceil_div(ceil_div(p.M, kRows), g.rows) * kRows;
        const std::int64_t n = ceil_div(ceil_div(p.N, kPanel), g.cols) * kPanel;
        const std::int64_t cost = m * n + packing * n + reading * m;
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

template <class Operand>
void multiply_all(const Problem& p) {
    const std::int64_t M = p.M, N = p.N, K = p.K;
    if (M <= std::min(kFewRows, K / 32) && p.a.col_stride == 1 && p.b.row_stride == 1) {
        parallel_for(
            N, std::max<std::int64_t>(kDotCols, kThreadWork / 4 / std::max<std::int64_t>(1, M * K)),
            [&](std::int64_t begin, std::int64_t end) {
                gemm_few_rows<Operand>(p.c, p.a, p.b, M, N, K, begin, end, p.epilogue);
                finish(p, {0, M}, {begin, end});
            });
        return;
    }
    const std::int64_t work = M * N * std::max<std::int64_t>(K, 1);
    const Grid grid = choose_grid(p, std::min<std::int64_t>(num_threads(), 1 + work / kThreadWork));
    parallel_for(grid.rows * grid.cols, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const Range rows = part(M, kRows, i / grid.cols, grid.rows);
            const Range cols = part(N, kPanel, i % grid.cols, grid.cols);
            if (rows.begin < rows.end && cols.begin < cols.end) multiply<Operand>(p, rows, cols);
        }
    });
}

}  // namespace

void gemm(float* c, Matrix a, Matrix b, std::int64_t M, std::int64_t N, std::int64_t K,
          const Epilogue& epilogue, bool bf16) {
    if (M == 0 || N == 0) return;
    const Problem p{c, a, b, M, N, K, epilogue};
    bf16 ? multiply_all<Bfloat16>(p) : multiply_all<Float32>(p);
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
