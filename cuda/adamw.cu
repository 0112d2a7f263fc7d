#include <cmath>

#include "adamw.h"
#include "core/clip.cuh"
#include "core/pack.cuh"

namespace byhand {
namespace {

struct Step {
    float beta1, beta2, rest1, rest2;  // rest = 1 - beta
    float keep;                        // what weight decay leaves of w
    float rate, inverse2, eps;         // lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    float max_norm;
    int64_t decayed;
};

BYHAND_DEVICE void update(float& w, float& m, float& v, float g, float keep, const Step& s) {
    m = fmaf(s.beta1, m, s.rest1 * g);
    v = fmaf(s.beta2, v, s.rest2 * g * g);
    w = fmaf(w, keep, -s.rate * m / fmaf(sqrtf(v), s.inverse2, s.eps));
}

constexpr int kThreads = 256;

template <int V>
__global__ void __launch_bounds__(kThreads, 1)
    adamw_update(float* w, float* m, float* v, const float* g, const float* norm, Step step,
                 int64_t n) {
    const float factor = norm != nullptr ? clip_factor(*norm, step.max_norm) : 1.0f;
    const int64_t packs = n / V, stride = static_cast<int64_t>(gridDim.x) * kThreads;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    for (int64_t i = first; i < packs; i += stride) {
        float wi[V], mi[V], vi[V], gi[V];
        load(wi, w + i * V);
        load(mi, m + i * V);
        load(vi, v + i * V);
        load(gi, g + i * V);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float keep = i * V + j < step.decayed ? step.keep : 1.0f;
            update(wi[j], mi[j], vi[j], gi[j] * factor, keep, step);
        }
        store(w + i * V, wi);
        store(m + i * V, mi);
        store(v + i * V, vi);
    }
    const int64_t i = packs * V + first;  // what is left over after the last whole pack
    if (i < n) update(w[i], m[i], v[i], g[i] * factor, i < step.decayed ? step.keep : 1.0f, step);
}

}  // namespace

void adamw_step(Mut w, Mut m, Mut v, In g, Maybe<In> norm, int64_t decayed, double lr, double beta1,
                double beta2, double eps, double weight_decay, int64_t t, double max_norm,
                Stream stream) {
    const int64_t n = w.size();
    if (n == 0) return;
    const double steps = static_cast<double>(t);
    Step step;
    step.beta1 = static_cast<float>(beta1);
    step.beta2 = static_cast<float>(beta2);
    step.rest1 = static_cast<float>(1.0 - beta1);
    step.rest2 = static_cast<float>(1.0 - beta2);
    step.keep = static_cast<float>(1.0 - lr * weight_decay);
    step.rate = static_cast<float>(lr / (1.0 - std::pow(beta1, steps)));
    step.inverse2 = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, steps)));
    step.eps = static_cast<float>(eps);
    step.max_norm = static_cast<float>(max_norm);
    step.decayed = decayed;
    float *wp = w.as<float>(), *mp = m.as<float>(), *vp = v.as<float>();
    const float *gp = g.as<float>(), *np = norm.as<float>();
    const bool packed = packable<float>(0, wp, mp, vp, gp);
    const int64_t packs = packed ? n / kPack<float> + 1 : n;
    const auto kernel = packed ? adamw_update<kPack<float>> : adamw_update<1>;
    launch("adamw_step", kernel, dim3(blocks_for(packs, kThreads)), dim3(kThreads), stream, wp, mp,
           vp, gp, np, step, n);
}

}  // namespace byhand
