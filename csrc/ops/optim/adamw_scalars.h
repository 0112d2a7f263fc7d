// The factors of an AdamW step that are the same for all elements of a group, shared by the CPU and
// the GPU: computed in double and rounded once.
#pragma once

#include <cmath>

#include "core/both.h"
#include "ops/optim/clip_factor.h"

namespace byhand {

// A row of adamw_step's `work`.
struct AdamWScalars {
    float keep;  // 1 - lr weight_decay; the weight_decay itself if it is coupled
    float rate;  // lr / (1 - beta1^t)
    float root;  // 1 / sqrt(1 - beta2^t)
    float clip;  // NaN: the step is skipped
};

struct AdamWBetas {
    float beta1, rest1, beta2, rest2, eps;  // rest = 1 - beta
    bool coupled;

    AdamWBetas(double beta1_, double beta2_, double eps_, bool coupled_)
        : beta1(static_cast<float>(beta1_)),
          rest1(static_cast<float>(1.0 - beta1_)),
          beta2(static_cast<float>(beta2_)),
          rest2(static_cast<float>(1.0 - beta2_)),
          eps(static_cast<float>(eps_)),
          coupled(coupled_) {}
};

// 1 - beta^t, the bias correction of a moment.
BYHAND_HD inline double adamw_share(double beta, double t) { return 1.0 - std::pow(beta, t); }

BYHAND_HD inline AdamWScalars adamw_scalars(double lr, double weight_decay, double share1,
                                            double share2, float clip, bool coupled) {
    const double keep = coupled ? weight_decay : 1.0 - lr * weight_decay;
    return {static_cast<float>(keep), static_cast<float>(lr / share1),
            static_cast<float>(1.0 / std::sqrt(share2)), clip};
}

}  // namespace byhand
