// What both bodies of rope read from their arguments.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/array.h"

namespace byhand {

// The strides of a (B, T, H, D) array but for the last one, which must be 1.
struct HeadStrides {
    std::int64_t batch, row, head;

    HeadStrides(const char* kernel, const Array& a)
        : batch(a.stride[0]), row(a.stride[1]), head(a.stride[2]) {
        if (a.size() > 0 && a.shape[3] > 1 && a.stride[3] != 1) {
            throw TypeError(std::string(kernel) + ": " + a.name +
                            " must have a contiguous last axis");
        }
    }
};

struct RopeSizes {
    std::int64_t B, T, H, D;
    std::int64_t N, F;  // of the tables
    HeadStrides to, from;

    RopeSizes(const char* kernel, const Array& y, const Array& x, const Array& cos,
              const Array& positions, std::int64_t start)
        : B(x.shape[0]),
          T(x.shape[1]),
          H(x.shape[2]),
          D(x.shape[3]),
          N(cos.shape[0]),
          F(cos.shape[1]),
          to(kernel, y),
          from(kernel, x) {
        if (2 * F > D) {
            throw std::invalid_argument(std::string(kernel) + ": the tables have too many columns");
        }
        if (!positions && (start < 0 || start > N - T) && B * T > 0) {
            throw std::out_of_range(std::string(kernel) + ": the positions from " +
                                    std::to_string(start) + " to " + std::to_string(start + T - 1) +
                                    " are outside 0.." + std::to_string(N - 1));
        }
    }
};

}  // namespace byhand
