// The factors of a step of SGD, RMSprop or Adagrad that are the same for all elements of a group,
// shared by the CPU and the GPU: computed in double and rounded once.
#pragma once

#include "core/both.h"
#include "ops/optim/clip_factor.h"

namespace byhand {

// A row of the `work` of rmsprop_step and adagrad_step.
struct StepScalars {
    float decay;  // weight_decay
    float rate;   // the learning rate
    float clip;   // NaN: the step is skipped
};

// A row of sgd_step's `work`.
struct SgdScalars {
    float decay, rate, clip;  // as above
    float threshold;          // lr l1
    float shrink;             // 1 / (1 + lr l2)
};

BYHAND_HD inline SgdScalars sgd_scalars(double lr, float weight_decay, double l1, double l2,
                                        float clip) {
    return {weight_decay, static_cast<float>(lr), clip, static_cast<float>(lr * l1),
            static_cast<float>(1.0 / (1.0 + lr * l2))};
}

// The learning rate of Adagrad's step number t, counted from 1.
BYHAND_HD inline float adagrad_rate(double lr, double lr_decay, double t) {
    return static_cast<float>(lr / (1.0 + (t - 1.0) * lr_decay));
}

}  // namespace byhand
