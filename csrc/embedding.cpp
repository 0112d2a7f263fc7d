#include "embedding.h"

#include <algorithm>

#include "core/ids.h"
#include "core/rows.h"

namespace byhand {
namespace {

// A slice of columns is a whole number of cache lines, so that threads never share one.
constexpr std::int64_t kLineFloats = 16;

void copy_row(float* y, const float* w, const float* add, std::int64_t n) {
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec row = Vec::load(w + i, lanes);
        (add ? row + Vec::load(add + i, lanes) : row).store(y + i, lanes);
    });
}

void add_row(float* dw, const float* dy, std::int64_t n) {
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        (Vec::load(dw + i, lanes) + Vec::load(dy + i, lanes)).store(dw + i, lanes);
    });
}

}  // namespace

void embedding_forward(Out y, In w, In ids, Maybe<In> add, Stream) {
    const float *const wp = w.as<float>(), *const addp = add.as<float>();
    const std::int64_t* const id = ids.as<std::int64_t>();
    float* const yp = y.as<float>();
    const std::int64_t cols = w.cols();
    require_ids(ids, w.rows());
    for_rows(ids.size(), cols, [=](std::int64_t r) {
        copy_row(yp + r * cols, wp + id[r] * cols, addp ? addp + r * cols : nullptr, cols);
    });
}

// Threads share the columns, not the rows: each goes through all the rows in ascending order, so
// nothing is sorted, nothing is raced for, and the work is even however often an id occurs.
void embedding_backward(Acc dw, Out, In dy, In ids, Stream) {
    if (!dw) return;
    float* const dwp = dw.as<float>();
    const float* const dyp = dy.as<float>();
    const std::int64_t* const id = ids.as<std::int64_t>();
    const std::int64_t rows = ids.size(), cols = dw.cols();
    require_ids(ids, dw.rows());
    const std::int64_t lines = (cols + kLineFloats - 1) / kLineFloats;
    parallel_for(lines, grain_of(rows * kLineFloats), [=](std::int64_t begin, std::int64_t end) {
        const std::int64_t first = begin * kLineFloats, last = std::min(cols, end * kLineFloats);
        for (std::int64_t r = 0; r < rows; ++r) {
            add_row(dwp + id[r] * cols + first, dyp + r * cols + first, last - first);
        }
    });
}

}  // namespace byhand
