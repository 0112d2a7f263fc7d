// How tensor cores add. A group of exact products and the sum so far are shifted to the largest
// exponent among them and truncated to 24 bits there; the sum of these is truncated to the 24 bits
// of a float32. (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores",
// sections 3 and 4. They measured 24 bits on Volta; later generations keep one to three bits more.)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "emulator/block.h"

namespace byhand::emulator {

inline std::uint64_t bits_of_double(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline double double_of(std::uint64_t bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// sums[n] += the sum over kGroup values of k of left[k] right[k][n], for kColumns columns.
template <int kGroup, int kColumns>
void add_truncated(double (&sums)[kColumns], const float* left, const double (*right)[kColumns]) {
    constexpr std::uint64_t kExponent = 0x7ffull << 52, kBelowFloat = (1ull << 29) - 1;
    double largest[kColumns], unit[kColumns], inverse[kColumns];
    std::int32_t total[kColumns];
    bool finite = true;
    for (int n = 0; n < kColumns; ++n) largest[n] = std::abs(sums[n]);
    for (int k = 0; k < kGroup; ++k) {
        const double l = left[k];
        for (int n = 0; n < kColumns; ++n) {
            const double product = std::abs(l * right[k][n]);
            largest[n] = product > largest[n] ? product : largest[n];
            finite &= product <= std::numeric_limits<double>::max();
        }
    }
    for (int n = 0; n < kColumns; ++n) {
        finite &= std::abs(sums[n]) <= std::numeric_limits<double>::max();
    }
    if (!finite) {  // NaN and infinity are not truncated
        for (int n = 0; n < kColumns; ++n) {
            for (int k = 0; k < kGroup; ++k) sums[n] += double{left[k]} * right[k][n];
        }
        return;
    }
    for (int n = 0; n < kColumns; ++n) {
        const double power = double_of(bits_of_double(largest[n]) & kExponent);
        unit[n] = std::max(power, 0x1p-900) * 0x1p-23;
        inverse[n] = 1.0 / unit[n];
        total[n] = static_cast<std::int32_t>(sums[n] * inverse[n]);
    }
    for (int k = 0; k < kGroup; ++k) {
        const double l = left[k];
        for (int n = 0; n < kColumns; ++n) {
            total[n] += static_cast<std::int32_t>(l * right[k][n] * inverse[n]);
        }
    }
    for (int n = 0; n < kColumns; ++n) {
        sums[n] = double_of(bits_of_double(total[n] * unit[n]) & ~kBelowFloat);
    }
}

// sums[n] += the sum over kDepth values of k, truncated or exact as the schedule says; the hardware
// adds groups of kGroup products one after another.
template <int kDepth, int kGroup, int kColumns>
void add_products(double (&sums)[kColumns], const float* left, const double (*right)[kColumns]) {
    if (running->block->launch().schedule.truncate) {
        for (int k = 0; k < kDepth; k += kGroup) {
            add_truncated<kGroup>(sums, left + k, right + k);
        }
        return;
    }
    for (int k = 0; k < kDepth; ++k) {
        const double l = left[k];
        for (int n = 0; n < kColumns; ++n) sums[n] += l * right[k][n];
    }
}

}  // namespace byhand::emulator
