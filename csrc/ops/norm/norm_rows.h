// The rows of layernorm and rmsnorm. `centred` is true for layernorm, which subtracts the mean of a
// row and adds a bias; rmsnorm has neither a mean nor a bias.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/rows.h"
#include "ops/norm/norm.h"

namespace byhand {

namespace norm {

// Empty rows have mean 0 and variance 0.
inline float mean_of(float sum, std::int64_t n) {
    return sum / static_cast<float>(std::max<std::int64_t>(n, 1));
}

// Lanes past the end are 0.
template <bool centred>
BYHAND_INLINE Vec centre(const float* x, float mean, std::int64_t lanes) {
    if constexpr (centred) {
        return Vec::load(x, lanes, mean) - Vec::set(mean);
    } else {
        return Vec::load(x, lanes);
    }
}

// s = x + add. With non-temporal stores a second copy is kept in the cache. Returns a pointer to
// the copy that is in the cache.
inline const float* add_row(float* s, const float* x, const float* add, std::int64_t n,
                            Into place) {
    float* const kept = place == Into::caches ? s : scratch(static_cast<std::size_t>(n));
    write_words(s, n, place, [=](std::int64_t i, std::int64_t lanes) {
        const Vec sum = Vec::load(x + i, lanes) + Vec::load(add + i, lanes);
        if (kept != s) sum.store(kept + i, lanes);
        return sum;
    });
    return kept;
}

// Prefetches the row after x, so that memory is busy in the passes over this row, which is in the
// cache.
template <bool centred>
float row_variance(const float* x, float mean, std::int64_t n) {
    const float sum = sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        __builtin_prefetch(x + n + i);
        const Vec c = centre<centred>(x + i, mean, lanes);
        return fma(c, c, sum);
    });
    return mean_of(sum, n);
}

template <bool centred>
void normalise_row(float* y, const float* x, const float* w, const float* b, float mean, float rstd,
                   std::int64_t n, Into place) {
    write_words(y, n, place, [=](std::int64_t i, std::int64_t lanes) {
        const Vec xhat = centre<centred>(x + i, mean, lanes) * Vec::set(rstd);
        const Vec shift = b ? Vec::load(b + i, lanes) : Vec::zero();
        return fma(xhat, Vec::load(w + i, lanes), shift);
    });
}

// The arrays that the backward pass reads, for one row.
template <bool centred>
struct Row {
    const float *dy, *x, *w;
    float mean, rstd;
    std::int64_t cols;

    Vec xhat(std::int64_t i, std::int64_t lanes) const {
        return centre<centred>(x + i, mean, lanes) * Vec::set(rstd);
    }
    Vec g(std::int64_t i, std::int64_t lanes) const {
        return Vec::load(dy + i, lanes) * Vec::load(w + i, lanes);
    }
};

struct Means {
    float g, g_xhat;
};

// Adds the row's part of the parameter gradients while it computes the row's means: dy is read from
// memory here, and from the cache in write_dx.
template <bool centred>
Means add_to_parameters(float* dw, float* db, const Row<centred>& row) {
    struct Sums {
        Vec g, g_xhat;
    };
    const auto step = [=](Sums sum, std::int64_t i, std::int64_t lanes) {
        const Vec dy = Vec::load(row.dy + i, lanes), xhat = row.xhat(i, lanes);
        const Vec g = row.g(i, lanes);
        sum.g_xhat = fma(g, xhat, sum.g_xhat);
        fma(dy, xhat, Vec::load(dw + i, lanes)).store(dw + i, lanes);
        if constexpr (centred) {
            sum.g += g;
            (Vec::load(db + i, lanes) + dy).store(db + i, lanes);
        }
        return sum;
    };
    const auto join = [](Sums a, Sums b) { return Sums{a.g + b.g, a.g_xhat + b.g_xhat}; };
    const Sums sum = fold_words(row.cols, Sums{Vec::zero(), Vec::zero()}, step, join);
    return {mean_of(sum.g.sum(), row.cols), mean_of(sum.g_xhat.sum(), row.cols)};
}

template <bool centred>
void write_dx(float* dx, const Row<centred>& row, const Means& mean, const float* ds, Into place) {
    const auto word = [=](std::int64_t i, std::int64_t lanes) {
        const Vec mean_g = centred ? Vec::set(mean.g) : Vec::zero();
        const Vec through = fma(row.xhat(i, lanes), Vec::set(mean.g_xhat), mean_g);
        const Vec rest = ds ? Vec::load(ds + i, lanes) : Vec::zero();
        return fma(row.g(i, lanes) - through, Vec::set(row.rstd), rest);
    };
    write_words(dx, row.cols, place, word, [=](std::int64_t i) {
        __builtin_prefetch(row.dy + row.cols + i);  // the next row
        __builtin_prefetch(row.x + row.cols + i);
    });
}

}  // namespace norm

template <bool centred>
void norm_forward(const NormForward<float>& a) {
    const std::int64_t cols = a.cols, size = a.rows * cols;
    const Into y_place = place_for(a.y, size, {a.x, a.add, a.s}),
               s_place = place_for(a.s, size, {a.x, a.add, a.y});
    for_rows(a.rows, cols, [=](std::int64_t r) {
        const std::int64_t at = r * cols;
        const float* row = a.x + at;
        if (a.s) {
            row = norm::add_row(a.s + at, row, a.add + at, cols, s_place);
        }
        float mean = 0.0f;
        if constexpr (centred) a.mean[r] = mean = norm::mean_of(sum_row(row, cols), cols);
        a.rstd[r] = 1.0f / std::sqrt(norm::row_variance<centred>(row, mean, cols) + a.eps);
        norm::normalise_row<centred>(a.y + at, row, a.w, a.b, mean, a.rstd[r], cols, y_place);
    });
}

template <bool centred>
void norm_backward(const NormBackward<float>& a) {
    const std::int64_t cols = a.cols, width = centred ? 2 * cols : cols;
    const Into place = place_for(a.dx, a.rows * cols, {a.dy, a.x, a.ds});
    for_rows(a.groups, a.group_rows * cols, [=](std::int64_t g) {
        float* const dw = a.work + g * width;
        std::fill_n(dw, width, 0.0f);
        const std::int64_t end = std::min(a.rows, (g + 1) * a.group_rows);
        for (std::int64_t r = g * a.group_rows; r < end; ++r) {
            const std::int64_t at = r * cols;
            const float mean = centred ? a.mean[r] : 0.0f;
            const norm::Row<centred> row{a.dy + at, a.x + at, a.w, mean, a.rstd[r], cols};
            const norm::Means means = norm::add_to_parameters(dw, dw + cols, row);
            norm::write_dx(a.dx + at, row, means, a.ds ? a.ds + at : nullptr, place);
        }
    });
    if (a.dw) add_partials(a.dw, a.work, a.groups, width, cols);
    if (a.db) add_partials(a.db, a.work + cols, a.groups, width, cols);
}

}  // namespace byhand
