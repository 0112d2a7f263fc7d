// The factor of gradient clipping, shared by clip and the steps of optimizers.
#pragma once

#include <cmath>

#include "core/both.h"

namespace byhand {

// min(1, max_norm / (norm + 1e-6)), NaN if norm is NaN (Pascanu, Mikolov and Bengio 2013, algorithm
// 1; 1e-6 is PyTorch's guard against a norm of 0).
BYHAND_HD inline float clip_factor(float norm, double max_norm) {
    const double factor = max_norm / (static_cast<double>(norm) + 1e-6);
    return factor > 1.0 ? 1.0f : static_cast<float>(factor);
}

// The factor of a step: 1 without a norm, NaN for a norm that is not finite, with which the step is
// skipped.
BYHAND_HD inline float step_clip(const float* norm, double max_norm) {
    if (norm == nullptr) return 1.0f;
    return std::isfinite(*norm) ? clip_factor(*norm, max_norm) : *norm - *norm;
}

}  // namespace byhand
