#include "core/elements.cuh"
#include "core/gelu.cuh"
#include "core/slots.h"
#include "core/team.cuh"
#include "ops/loss/pointwise_loss.h"

namespace byhand {
namespace {

// Each block sums the losses of its elements; a second kernel adds the sums of the blocks in order.
constexpr int kPartials = 4096;
__device__ double partial_losses[kSlots][kPartials];

struct Rule {
    PointwiseLoss function;
    float a;
};

// 1 / (1 + exp(-x)) of |x| and of -|x|.
struct Sigmoids {
    float high, low;
    explicit BYHAND_DEVICE Sigmoids(float x) {
        const float e = expf(-fabsf(x));
        high = 1.0f / (1.0f + e), low = e * high;
    }
};

BYHAND_DEVICE float bce(float x, float t, float a) {
    const float curve = log1pf(expf(-fabsf(x)));
    return (1.0f - t) * (at_least(x, 0.0f) + curve) + a * t * (at_least(-x, 0.0f) + curve);
}

BYHAND_DEVICE float bce_slope(float x, float t, float a) {
    const Sigmoids s(x);
    const float of_x = x < 0.0f ? s.low : s.high, of_minus_x = x < 0.0f ? s.high : s.low;
    return (1.0f - t) * of_x - a * t * of_minus_x;
}

BYHAND_DEVICE float huber(float x, float t, float a) {
    const float d = fabsf(x - t);
    return d > a ? a * (d - 0.5f * a) : 0.5f * d * d;
}

template <int U, int V>
BYHAND_DEVICE void to_losses(float (&x)[U][V], const float (&t)[U][V], const Rule& rule) {
    const float a = rule.a;
    switch (rule.function) {
        case PointwiseLoss::squared:
            return each(x, t, [=](float p, float q) { return a * ((p - q) * (p - q)); });
        case PointwiseLoss::huber:
            return each(x, t, [=](float p, float q) { return huber(p, q, a); });
        case PointwiseLoss::bce:
            return each(x, t, [=](float p, float q) { return bce(p, q, a); });
    }
}

template <int U, int V>
BYHAND_DEVICE void to_slopes(float (&x)[U][V], const float (&t)[U][V], const Rule& rule) {
    const float a = rule.a;
    switch (rule.function) {
        case PointwiseLoss::squared:
            return each(x, t, [=](float p, float q) { return 2.0f * a * (p - q); });
        case PointwiseLoss::huber:
            return each(x, t, [=](float p, float q) { return at_least(at_most(p - q, a), -a); });
        case PointwiseLoss::bce:
            return each(x, t, [=](float p, float q) { return bce_slope(p, q, a); });
    }
}

// losses may be null.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    pointwise_loss_forward_elements(float* losses, const T* x, const T* t, Rule rule, bool summed,
                                    int slot, int64_t n) {
    constexpr int kPacks = kElements / V;
    const int64_t whole = n / V * V;
    double sum = 0.0;
    for (int64_t start = blockIdx.x * kBlock; start < whole; start += gridDim.x * kBlock) {
        float v[kPacks][V] = {}, s[kPacks][V] = {}, part = 0.0f;
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) >= whole) continue;
            load(v[u], x + pack_at<V>(start, u));
            load(s[u], t + pack_at<V>(start, u));
        }
        to_losses(v, s, rule);
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) >= whole) continue;
            if (losses != nullptr) store_floats(losses + pack_at<V>(start, u), v[u]);
#pragma unroll
            for (int j = 0; j < V; ++j) part += v[u][j];
        }
        sum += part;
    }
    const int64_t last = whole + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) {
        float v[1][1] = {{to_float(x[last])}}, s[1][1] = {{to_float(t[last])}};
        to_losses(v, s, rule);
        if (losses != nullptr) losses[last] = v[0][0];
        sum += v[0][0];
    }
    if (!summed) return;
    sum = sum_block<kThreads>(sum);
    if (threadIdx.x == 0) partial_losses[slot][blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads, 1)
    pointwise_loss_finish(float* loss, bool mean, int slot, int blocks, int64_t n) {
    double sum = 0.0;
    for (int p = static_cast<int>(threadIdx.x); p < blocks; p += kThreads)
        sum += partial_losses[slot][p];
    sum = sum_block<kThreads>(sum);
    if (threadIdx.x == 0)
        *loss = static_cast<float>(mean && n > 0 ? sum / static_cast<double>(n) : sum);
}

// dloss and dlosses may be null.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    pointwise_loss_backward_elements(T* dx, const float* dloss, const float* dlosses, const T* x,
                                     const T* t, Rule rule, bool mean, int64_t n) {
    constexpr int kPacks = kElements / V;
    const int64_t whole = n / V * V;
    const float same = dloss == nullptr ? 0.0f : mean ? *dloss / static_cast<float>(n) : *dloss;
    for (int64_t start = blockIdx.x * kBlock; start < whole; start += gridDim.x * kBlock) {
        float v[kPacks][V] = {}, s[kPacks][V] = {}, d[kPacks][V] = {};
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) >= whole) continue;
            load(v[u], x + pack_at<V>(start, u));
            load(s[u], t + pack_at<V>(start, u));
            if (dlosses != nullptr) load_floats(d[u], dlosses + pack_at<V>(start, u));
        }
        to_slopes(v, s, rule);
        each(v, d, [=](float slope, float upstream) { return (same + upstream) * slope; });
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) < whole) store(dx + pack_at<V>(start, u), v[u]);
        }
    }
    const int64_t last = whole + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) {
        float v[1][1] = {{to_float(x[last])}}, s[1][1] = {{to_float(t[last])}};
        to_slopes(v, s, rule);
        dx[last] = from_float<T>((same + (dlosses == nullptr ? 0.0f : dlosses[last])) * v[0][0]);
    }
}

Rule rule_of(const char* name, int64_t function, double a) {
    if (function < 0 || function > static_cast<int64_t>(PointwiseLoss::bce)) {
        throw std::invalid_argument(std::string(name) + ": there is no such function");
    }
    return {static_cast<PointwiseLoss>(function), static_cast<float>(a)};
}

}  // namespace

void pointwise_loss_forward(Maybe<Out> loss, Maybe<Out> losses, In prediction, In target,
                            int64_t function, double a, bool mean, Stream stream) {
    const char* name = "pointwise_loss_forward";
    const Rule rule = rule_of(name, function, a);
    const int64_t n = prediction.size();
    const int slot = slot_of(stream);
    float *const total = loss.as<float>(), *const to = losses.as<float>();
    int blocks = 0;
    for_storage(prediction, [&](auto zero) {
        using T = decltype(zero);
        const T *const xs = prediction.as<T>(), *const ts = target.as<T>();
        if (n == 0) return;
        const auto kernel = packable<T>(0, xs, ts) && packable<T>(0, to)
                                ? pointwise_loss_forward_elements<T, kPack<T>>
                                : pointwise_loss_forward_elements<T, 1>;
        blocks = std::min(static_cast<int>(blocks_for(n, kBlock)), kPartials);
        launch(name, kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, to, xs,
               ts, rule, total != nullptr, slot, n);
    });
    if (total == nullptr) return;
    launch(name, pointwise_loss_finish, dim3(1), dim3(kThreads), stream, total, mean, slot, blocks,
           n);
}

void pointwise_loss_backward(Out dx, Maybe<In> dloss, Maybe<In> dlosses, In prediction, In target,
                             int64_t function, double a, bool mean, Stream stream) {
    const char* name = "pointwise_loss_backward";
    const Rule rule = rule_of(name, function, a);
    const int64_t n = prediction.size();
    const float *const all = dloss.as<float>(), *const one_by_one = dlosses.as<float>();
    for_storage(prediction, [&](auto zero) {
        using T = decltype(zero);
        T* const to = dx.as<T>();
        const T *const xs = prediction.as<T>(), *const ts = target.as<T>();
        if (n == 0) return;
        const auto kernel = packable<T>(0, to, xs, ts) && packable<T>(0, one_by_one)
                                ? pointwise_loss_backward_elements<T, kPack<T>>
                                : pointwise_loss_backward_elements<T, 1>;
        launch(name, kernel, dim3(blocks_for(n, kBlock)), dim3(kThreads), stream, to, all,
               one_by_one, xs, ts, rule, mean, n);
    });
}

}  // namespace byhand
