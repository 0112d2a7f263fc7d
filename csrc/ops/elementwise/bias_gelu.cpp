#include "ops/elementwise/bias_gelu.h"

#include <algorithm>

#include "core/rows.h"
#include "simd/vecmath.h"

namespace byhand {
namespace {

// db is summed over this many blocks of rows, whatever the number of threads.
constexpr std::int64_t kBlocks = 64;

Vec biased(const float* x, const float* b, std::int64_t i, std::int64_t lanes) {
    const Vec u = Vec::load(x + i, lanes);
    return b ? u + Vec::load(b + i, lanes) : u;
}

template <class Gelu>
void forward_row(float* y, const float* x, const float* b, std::int64_t n, Into place, Gelu gelu) {
    write_words(y, n, place,
                [=](std::int64_t i, std::int64_t lanes) { return gelu(biased(x, b, i, lanes)); });
}

// Also adds dx to the partial db, unless it is null.
template <class Derivative>
void backward_row(float* dx, float* db, const float* dy, const float* x, const float* b,
                  std::int64_t n, Into place, Derivative derivative) {
    write_words(dx, n, place, [=](std::int64_t i, std::int64_t lanes) {
        const Vec d = Vec::load(dy + i, lanes) * derivative(biased(x, b, i, lanes));
        if (db) (Vec::load(db + i, lanes) + d).store(db + i, lanes);
        return d;
    });
}

template <class Gelu>
void forward(const Out& y, const In& x, const Maybe<In>& b, Gelu gelu) {
    const float *const xp = x.as<float>(), *const bp = b.as<float>();
    float* const yp = y.as<float>();
    const std::int64_t cols = x.cols();
    const Into place = place_for(yp, y.size(), {xp});
    for_rows(x.rows(), cols, [=](std::int64_t r) {
        forward_row(yp + r * cols, xp + r * cols, bp, cols, place, gelu);
    });
}

template <class Derivative>
void backward(const Out& dx, const Acc& db, const In& dy, const In& x, const Maybe<In>& b,
              Derivative derivative) {
    const float *const dyp = dy.as<float>(), *const xp = x.as<float>(), *const bp = b.as<float>();
    float* const dxp = dx.as<float>();
    const std::int64_t rows = x.rows(), cols = x.cols();
    const std::int64_t block_rows = (rows + kBlocks - 1) / kBlocks;
    float* const partials = db ? scratch(static_cast<std::size_t>(kBlocks * cols)) : nullptr;
    const Into place = place_for(dxp, dx.size(), {dyp, xp});
    for_rows(kBlocks, block_rows * cols, [=](std::int64_t block) {
        float* const partial = partials ? partials + block * cols : nullptr;
        if (partial) std::fill_n(partial, cols, 0.0f);
        const std::int64_t end = std::min(rows, (block + 1) * block_rows);
        for (std::int64_t r = block * block_rows; r < end; ++r) {
            const std::int64_t at = r * cols;
            backward_row(dxp + at, partial, dyp + at, xp + at, bp, cols, place, derivative);
        }
    });
    if (db) add_partials(db.as<float>(), partials, kBlocks, cols, cols);
}

}  // namespace

void bias_gelu_forward(Out y, In x, Maybe<In> b, bool tanh, Stream) {
    if (tanh) {
        forward(y, x, b, [](Vec u) { return gelu_tanh(u); });
    } else {
        forward(y, x, b, [](Vec u) { return gelu_erf(u); });
    }
}

void bias_gelu_backward(Out dx, Acc db, In dy, In x, Maybe<In> b, bool tanh, Stream) {
    if (tanh) {
        backward(dx, db, dy, x, b, [](Vec u) { return gelu_tanh_derivative(u); });
    } else {
        backward(dx, db, dy, x, b, [](Vec u) { return gelu_erf_derivative(u); });
    }
}

}  // namespace byhand
