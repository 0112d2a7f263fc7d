#include "layernorm.h"

#include <algorithm>
#include <cmath>

#include "core/rows.h"

namespace byhand {
namespace {

// A row of no elements has mean 0 and variance 0.
float mean_of(float sum, std::int64_t n) {
    return sum / static_cast<float>(std::max<std::int64_t>(n, 1));
}

float row_variance(const float* x, float mean, std::int64_t n) {
    const float sum = sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        const Vec centred = Vec::load(x + i, lanes, mean) - Vec::set(mean);
        return fma(centred, centred, sum);
    });
    return mean_of(sum, n);
}

void normalise_row(float* y, const float* x, const float* w, const float* b, float mean, float rstd,
                   std::int64_t n) {
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec xhat = (Vec::load(x + i, lanes) - Vec::set(mean)) * Vec::set(rstd);
        const Vec shift = b ? Vec::load(b + i, lanes) : Vec::zero();
        fma(xhat, Vec::load(w + i, lanes), shift).store(y + i, lanes);
    });
}

// One row of the matrices that the backward pass reads.
struct Row {
    const float *dy, *x, *w;
    float mean, rstd;
    std::int64_t cols;

    Vec xhat(std::int64_t i, std::int64_t lanes) const {
        return (Vec::load(x + i, lanes) - Vec::set(mean)) * Vec::set(rstd);
    }
    Vec g(std::int64_t i, std::int64_t lanes) const {
        return Vec::load(dy + i, lanes) * Vec::load(w + i, lanes);
    }
};

struct Means {
    float g, g_xhat;
};

// Adds the row's part of the parameter gradients while its means are taken: dy is read from memory
// here, and from the cache in write_dx.
Means add_to_parameters(float* dw, float* db, const Row& row) {
    Vec sum_g = Vec::zero(), sum_g_xhat = Vec::zero();
    for_words(row.cols, [&](std::int64_t i, std::int64_t lanes) {
        const Vec dy = Vec::load(row.dy + i, lanes), xhat = row.xhat(i, lanes);
        const Vec g = row.g(i, lanes);
        sum_g += g;
        sum_g_xhat = fma(g, xhat, sum_g_xhat);
        fma(dy, xhat, Vec::load(dw + i, lanes)).store(dw + i, lanes);
        (Vec::load(db + i, lanes) + dy).store(db + i, lanes);
    });
    return {mean_of(sum_g.sum(), row.cols), mean_of(sum_g_xhat.sum(), row.cols)};
}

void write_dx(float* dx, const Row& row, const Means& mean, const float* add) {
    for_words(row.cols, [=](std::int64_t i, std::int64_t lanes) {
        const Vec through = fma(row.xhat(i, lanes), Vec::set(mean.g_xhat), Vec::set(mean.g));
        const Vec rest = add ? Vec::load(add + i, lanes) : Vec::zero();
        fma(row.g(i, lanes) - through, Vec::set(row.rstd), rest).store(dx + i, lanes);
    });
}

}  // namespace

void layernorm_forward(Out y, Out mean, Out rstd, In x, In w, Maybe<In> b, double eps, Stream) {
    const float *const xp = x.as<float>(), *const wp = w.as<float>(), *const bp = b.as<float>();
    float *const yp = y.as<float>(), *const means = mean.as<float>(),
                 *const rstds = rstd.as<float>();
    const std::int64_t cols = x.cols();
    for_rows(x.rows(), cols, [=](std::int64_t r) {
        const float* const xr = xp + r * cols;
        means[r] = mean_of(sum_row(xr, cols), cols);
        rstds[r] = 1.0f / std::sqrt(row_variance(xr, means[r], cols) + static_cast<float>(eps));
        normalise_row(yp + r * cols, xr, wp, bp, means[r], rstds[r], cols);
    });
}

void layernorm_backward(Out dx, Acc dw, Acc db, Out work, In dy, In x, In w, In mean, In rstd,
                        Maybe<In> add, Stream) {
    const float *const dyp = dy.as<float>(), *const xp = x.as<float>(), *const wp = w.as<float>();
    const float *const means = mean.as<float>(), *const rstds = rstd.as<float>();
    const float* const addp = add.as<float>();
    float *const dxp = dx.as<float>(), *const partials = work.as<float>();
    const std::int64_t rows = x.rows(), cols = x.cols(), groups = work.shape[0];
    if (groups < 1) throw std::invalid_argument("layernorm_backward: work must have a group");
    const std::int64_t group_rows = (rows + groups - 1) / groups;
    for_rows(groups, group_rows * cols, [=](std::int64_t g) {
        float *const dw_part = partials + 2 * g * cols, *const db_part = dw_part + cols;
        std::fill_n(dw_part, 2 * cols, 0.0f);
        const std::int64_t end = std::min(rows, (g + 1) * group_rows);
        for (std::int64_t r = g * group_rows; r < end; ++r) {
            const std::int64_t at = r * cols;
            const Row row{dyp + at, xp + at, wp, means[r], rstds[r], cols};
            const Means row_means = add_to_parameters(dw_part, db_part, row);
            write_dx(dxp + at, row, row_means, addp ? addp + at : nullptr);
        }
    });
    if (dw) add_partials(dw.as<float>(), partials, groups, 2 * cols, cols);
    if (db) add_partials(db.as<float>(), partials + cols, groups, 2 * cols, cols);
}

}  // namespace byhand
