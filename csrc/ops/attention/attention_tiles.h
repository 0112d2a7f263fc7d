// The inner loops of attention, on small dense tiles that fit in the first caches.
//
// A tile is a row-major block of floats in scratch memory whose rows are padded to whole words, so
// that the loops below have no tails in their columns. Every product of attention, forward and
// backward, is one routine: the left factor is broadcast element by element, the right factor and
// the result are read and written in words. The left factor may therefore be read along its rows
// (Straight) or along its columns (Transposed) at the same cost, and only right factors are packed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd/vec.h"

namespace byhand {
namespace tiles {

using std::int64_t;

// Queries and keys of one tile of scores. 64 keys are one block of Philox words.
constexpr int64_t kTile = 64;
static_assert(kTile % Vec::width == 0, "a tile has whole words");

constexpr int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t round_down(int64_t n, int64_t multiple) { return n / multiple * multiple; }
constexpr int64_t padded(int64_t columns) { return round_up(columns, Vec::width); }

// Cuts scratch memory into pieces that start on cache lines.
class Carver {
  public:
    explicit Carver(float* memory) : next_(memory) {}
    static constexpr int64_t room(int64_t floats) { return round_up(floats, 16); }
    float* take(int64_t floats) {
        float* piece = next_;
        next_ += room(floats);
        return piece;
    }

  private:
    float* next_;
};

// The rows of a matrix in the caller's memory.
struct Rows {
    const float* data;
    int64_t stride;

    const float* row(int64_t i) const { return data + i * stride; }
    Rows from(int64_t i) const { return {row(i), stride}; }
};

// The rows of a matrix that is written.
struct Target {
    float* data;
    int64_t stride;

    float* row(int64_t i) const { return data + i * stride; }
    Target from(int64_t i) const { return {row(i), stride}; }
};

// The left factor of a product, element (r, k) of a.
struct Straight {
    const float* data;
    int64_t stride;

    float at(int64_t r, int64_t k) const { return data[r * stride + k]; }
    Straight from(int64_t r) const { return {data + r * stride, stride}; }
};
struct Transposed {
    const float* data;
    int64_t stride;

    float at(int64_t r, int64_t k) const { return data[k * stride + r]; }
    Transposed from(int64_t r) const { return {data + r, stride}; }
};

enum class Start { zero, add };

#if defined(__clang__)
#define BYHAND_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define BYHAND_UNROLL_4 _Pragma("GCC unroll 4")
#endif

// Rows of a result that are held in registers, two words of each.
constexpr int kBlock = Vec::width >= 16 ? 8 : 6;

// c[R, N words] = or += a[R, depth] b[depth, N words], with c in registers.
template <int R, int N, class Left>
inline void product_block(float* c, int64_t ldc, Left a, const float* b, int64_t ldb, int64_t depth,
                          Start start) {
    Vec sum[R][N];
    for (int r = 0; r < R; ++r) {
        for (int n = 0; n < N; ++n) {
            sum[r][n] = start == Start::add ? Vec::load(c + r * ldc + n * Vec::width) : Vec::zero();
        }
    }
    BYHAND_UNROLL_4
    for (int64_t k = 0; k < depth; ++k) {
        Vec right[N];
        for (int n = 0; n < N; ++n) right[n] = Vec::load(b + k * ldb + n * Vec::width);
        for (int r = 0; r < R; ++r) {
            const Vec left = Vec::set(a.at(r, k));
            for (int n = 0; n < N; ++n) sum[r][n] = fma(left, right[n], sum[r][n]);
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int n = 0; n < N; ++n) sum[r][n].store(c + r * ldc + n * Vec::width);
    }
}

template <int R, class Left>
inline void product_rows(float* c, int64_t ldc, Left a, const float* b, int64_t ldb,
                         int64_t columns, int64_t depth, Start start) {
    int64_t i = 0;
    for (; i + 2 * Vec::width <= columns; i += 2 * Vec::width) {
        product_block<R, 2>(c + i, ldc, a, b + i, ldb, depth, start);
    }
    if (i < columns) product_block<R, 1>(c + i, ldc, a, b + i, ldb, depth, start);
}

// c[rows, columns] = or += a[rows, depth] b[depth, columns]; columns is a multiple of Vec::width.
// Each element is one sequence of fused multiply-adds in the order of depth, whatever the blocking.
template <class Left>
inline void product(float* c, int64_t ldc, Left a, const float* b, int64_t ldb, int64_t rows,
                    int64_t columns, int64_t depth, Start start) {
    int64_t r = 0;
    for (; r + kBlock <= rows; r += kBlock) {
        product_rows<kBlock>(c + r * ldc, ldc, a.from(r), b, ldb, columns, depth, start);
    }
    for (; r + 4 <= rows; r += 4) {
        product_rows<4>(c + r * ldc, ldc, a.from(r), b, ldb, columns, depth, start);
    }
    for (; r + 2 <= rows; r += 2) {
        product_rows<2>(c + r * ldc, ldc, a.from(r), b, ldb, columns, depth, start);
    }
    for (; r < rows; ++r) {
        product_rows<1>(c + r * ldc, ldc, a.from(r), b, ldb, columns, depth, start);
    }
}

// tile[j][i] = scale * x[i][j] for i < rows, 0 up to the next whole word. The tile's rows are kTile
// apart.
inline void pack_transposed(float* tile, Rows x, int64_t rows, int64_t columns, float scale) {
    const Vec factor = Vec::set(scale);
    for (int64_t i = 0; i < rows; i += Vec::width) {
        for (int64_t j = 0; j < columns; j += Vec::width) {
            Vec square[Vec::width];
            for (int64_t k = 0; k < Vec::width; ++k) {
                square[k] = i + k < rows ? Vec::load(x.row(i + k) + j, columns - j) : Vec::zero();
            }
            transpose(square);
            const int64_t count = std::min<int64_t>(Vec::width, columns - j);
            for (int64_t k = 0; k < count; ++k) {
                (factor * square[k]).store(tile + (j + k) * kTile + i);
            }
        }
    }
}

// tile[i][c] = scale * x[i][c], 0 in the padding of a row.
inline void pack_rows(float* tile, Rows x, int64_t rows, int64_t columns, float scale) {
    const int64_t width = padded(columns);
    const Vec factor = Vec::set(scale);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < columns; c += Vec::width) {
            (factor * Vec::load(x.row(i) + c, columns - c)).store(tile + i * width + c);
        }
    }
}

inline Rows packed_rows(float* tile, Rows x, int64_t rows, int64_t columns) {
    pack_rows(tile, x, rows, columns, 1.0f);
    return {tile, padded(columns)};
}

// The rows themselves if their length is a multiple of Vec::width, else a packed copy.
inline Rows whole_words(float* tile, Rows x, int64_t rows, int64_t columns) {
    return columns == padded(columns) ? x : packed_rows(tile, x, rows, columns);
}

// Prefetches rows that are needed soon into the second-level cache. Rows of one head are short and
// far apart, so hardware prefetchers do not find them. A few are requested between two products,
// because the processor drops prefetches when too many are outstanding.
class Ahead {
  public:
    // step() will be called about this many times.
    explicit Ahead(int64_t steps) : steps_(std::max<int64_t>(steps, 1)) {}

    void read(Rows x, int64_t rows, int64_t columns) {
        add({x.data, x.stride, rows, columns, false});
    }
    void write(Target x, int64_t rows, int64_t columns) {
        add({x.data, x.stride, rows, columns, true});
    }

    void step() {
        const int64_t end = std::min(next_ + (rows_ + steps_ - 1) / steps_, rows_);
        for (; next_ < end; ++next_) {
            for (int n = 0; n < count_; ++n) ask(ranges_[n], next_);
        }
    }

  private:
    struct Range {
        const float* data;
        int64_t stride, rows, columns;
        bool write;
    };
    static constexpr int kRanges = 8;

    void add(const Range& range) {
        ranges_[count_++] = range;
        rows_ = std::max(rows_, range.rows);
    }
    // Always inline: g++ 12 considers a function that only prefetches to have no effect.
    static BYHAND_INLINE void ask(const Range& x, int64_t i) {
        constexpr int64_t kLine = 16;
        if (i >= x.rows) return;
        const float* row = x.data + i * x.stride;
        for (int64_t c = 0; c < x.columns; c += kLine) {
            x.write ? __builtin_prefetch(row + c, 1, 2) : __builtin_prefetch(row + c, 0, 2);
        }
    }

    Range ranges_[kRanges];
    int count_ = 0;
    int64_t steps_, next_ = 0, rows_ = 0;
};

// y[c] = scale * x[c]: copies a row of a tile to the caller's memory.
inline void unpack_row(float* y, const float* x, int64_t columns, Vec scale) {
    for (int64_t c = 0; c < columns; c += Vec::width) {
        (scale * Vec::load(x + c)).store(y + c, columns - c);
    }
}

inline void scale_row(float* x, int64_t columns, Vec scale) {
    for (int64_t c = 0; c < columns; c += Vec::width) (scale * Vec::load(x + c)).store(x + c);
}

inline void fill_zero(float* x, int64_t n) {
    std::memset(x, 0, static_cast<std::size_t>(n) * sizeof(float));
}

}  // namespace tiles
}  // namespace byhand
