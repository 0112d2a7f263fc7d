// The arguments of layernorm and rmsnorm in one struct, for all back ends: rmsnorm has no mean, no
// b and no db.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/array.h"

namespace byhand {

inline float norm_share(std::int64_t cols) {
    return cols > 0 ? 1.0f / static_cast<float>(cols) : 0;
}

template <class T>
struct NormForward {
    T *y, *s;
    float *mean, *rstd;
    const T *x, *w, *b, *add;
    float eps;
    std::int64_t rows, cols;
    float share;  // 1 / columns; 0 for empty rows, whose mean is 0

    NormForward(const char* name, const Writable& y_, const Writable& s_, const Writable& mean_,
                const Writable& rstd_, const ReadOnly& x_, const ReadOnly& w_, const ReadOnly& b_,
                const ReadOnly& add_, double eps_)
        : y(y_.as<T>()),
          s(s_.as<T>()),
          mean(mean_.as<float>()),
          rstd(rstd_.as<float>()),
          x(x_.as<T>()),
          w(w_.as<T>()),
          b(b_.as<T>()),
          add(add_.as<T>()),
          eps(static_cast<float>(eps_)),
          rows(x_.rows()),
          cols(x_.cols()),
          share(norm_share(cols)) {
        if (static_cast<bool>(s_) != static_cast<bool>(add_)) {
            throw std::invalid_argument(std::string(name) + ": s and add must be given together");
        }
    }
};

// For each group of rows, work holds the partial sums of dw and then those of db, if there is a db.
template <class T>
struct NormBackward {
    T* dx;
    float *dw, *db, *work;
    const T *dy, *x, *w;
    const float *mean, *rstd;
    const T* ds;
    std::int64_t rows, cols, groups, group_rows;
    float share;

    NormBackward(const char* name, const Writable& dx_, const Writable& dw_, const Writable& db_,
                 const Writable& work_, const ReadOnly& dy_, const ReadOnly& x_, const ReadOnly& w_,
                 const ReadOnly& mean_, const ReadOnly& rstd_, const ReadOnly& ds_)
        : dx(dx_.as<T>()),
          dw(dw_.as<float>()),
          db(db_.as<float>()),
          work(work_.as<float>()),
          dy(dy_.as<T>()),
          x(x_.as<T>()),
          w(w_.as<T>()),
          mean(mean_.as<float>()),
          rstd(rstd_.as<float>()),
          ds(ds_.as<T>()),
          rows(x_.rows()),
          cols(x_.cols()),
          groups(work_.ndim > 0 ? work_.shape[0] : 0),
          share(norm_share(cols)) {
        if (groups < 1) {
            throw std::invalid_argument(std::string(name) + ": work must have at least one group");
        }
        group_rows = (rows + groups - 1) / groups;
    }
};

}  // namespace byhand
