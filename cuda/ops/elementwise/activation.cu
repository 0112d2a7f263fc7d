#include "core/gelu.cuh"
#include "core/pack.cuh"
#include "ops/elementwise/activation.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;

struct Rule {
    Activation function;
    float a, b;
};

// 1 / (1 + exp(-x)), for results stored as T.
template <class T>
BYHAND_DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + exp_for<T>(-x));
}

// s + x s (1 - s), where 1 - s = e s. Capping e and x keeps that product finite.
template <class T>
BYHAND_DEVICE float silu_slope(float x) {
    const float e = at_most(exp_for<T>(-x), 1e30f), s = 1.0f / (1.0f + e);
    const float near = at_least(at_most(x, 100.0f), -100.0f);
    return fmaf(near * s, e * s, s);
}

template <class T>
BYHAND_DEVICE float value(float x, const Rule& rule) {
    switch (rule.function) {
        case Activation::step:
            return x >= 0.0f ? 1.0f : x < 0.0f ? 0.0f : x;
        case Activation::sigmoid:
            return sigmoid<T>(x);
        case Activation::tanh:
            return tanhf(x);
        case Activation::relu:
            return at_least(x, 0.0f);
        case Activation::leaky_relu:
            return x > 0.0f ? x : rule.a * x;
        case Activation::elu:
            return x > 0.0f ? rule.b * x : rule.a * expm1f(x);
        case Activation::gelu:
            return gelu<T>(x, false).value;
        case Activation::gelu_tanh:
            return gelu<T>(x, true).value;
        case Activation::silu:
            return x / (1.0f + exp_for<T>(-x));
        case Activation::softplus: {
            const float z = rule.a * x;
            if (z > rule.b) return x;
            return (at_least(z, 0.0f) + log1pf(exp_for<T>(-fabsf(z)))) / rule.a;
        }
    }
    return not_a_number();
}

// Of what the function saves: its result y where that is enough, else x.
template <class T>
BYHAND_DEVICE float gradient(float dy, float saved, const Rule& rule) {
    switch (rule.function) {
        case Activation::step:
            return 0.0f;
        case Activation::sigmoid:
            return dy * (saved * (1.0f - saved));
        case Activation::tanh:
            return dy * ((1.0f - saved) * (1.0f + saved));
        case Activation::relu:
            return saved <= 0.0f ? 0.0f : dy;
        case Activation::leaky_relu:
            return saved > 0.0f ? dy : rule.a * dy;
        case Activation::elu:
            return dy * (saved > 0.0f ? rule.b : saved + rule.a);
        case Activation::gelu:
            return dy * gelu<T>(saved, false).slope;
        case Activation::gelu_tanh:
            return dy * gelu<T>(saved, true).slope;
        case Activation::silu:
            return dy * silu_slope<T>(saved);
        case Activation::softplus: {
            const float z = rule.a * saved;
            return z > rule.b ? dy : dy * sigmoid<T>(z);
        }
    }
    return not_a_number();
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    activation_forward_elements(T* y, const T* x, Rule rule, int64_t n) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * V;
    const int64_t mine = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V;
    for (int64_t i = mine; i + V <= n; i += stride) {
        float v[V];
        load(v, x + i);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = value<T>(v[j], rule);
        store(y + i, v);
    }
    const int64_t last = n / V * V + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) y[last] = from_float<T>(value<T>(to_float(x[last]), rule));
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    activation_backward_elements(T* dx, const T* dy, const T* saved, Rule rule, int64_t n) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * V;
    const int64_t mine = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V;
    for (int64_t i = mine; i + V <= n; i += stride) {
        float d[V], s[V];
        load(d, dy + i);
        load(s, saved + i);
#pragma unroll
        for (int j = 0; j < V; ++j) d[j] = gradient<T>(d[j], s[j], rule);
        store(dx + i, d);
    }
    const int64_t last = n / V * V + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) {
        dx[last] = from_float<T>(gradient<T>(to_float(dy[last]), to_float(saved[last]), rule));
    }
}

Rule rule_of(const char* name, std::int64_t function, double a, double b) {
    if (function < 0 || function > static_cast<std::int64_t>(Activation::softplus)) {
        throw std::invalid_argument(std::string(name) + ": there is no such function");
    }
    return {static_cast<Activation>(function), static_cast<float>(a), static_cast<float>(b)};
}

bool needs_x(Activation function) {
    return function == Activation::gelu || function == Activation::gelu_tanh ||
           function == Activation::silu || function == Activation::softplus;
}

}  // namespace

void activation_forward(Out y, In x, std::int64_t function, double a, double b, Stream stream) {
    const char* name = "activation_forward";
    const Rule rule = rule_of(name, function, a, b);
    const int64_t n = x.size();
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        T* const to = y.as<T>();
        const T* const from = x.as<T>();
        if (n == 0) return;
        const bool packed = packable<T>(0, to, from);
        const auto kernel =
            packed ? activation_forward_elements<T, kPack<T>> : activation_forward_elements<T, 1>;
        const dim3 grid(blocks_for(n, kThreads * (packed ? kPack<T> : 1)));
        launch(name, kernel, grid, dim3(kThreads), stream, to, from, rule, n);
    });
}

void activation_backward(Out dx, In dy, Maybe<In> x, Maybe<In> y, std::int64_t function, double a,
                         double b, Stream stream) {
    const char* name = "activation_backward";
    const Rule rule = rule_of(name, function, a, b);
    const Maybe<In>& saved = needs_x(rule.function) ? x : y;
    if (!saved)
        throw std::invalid_argument("activation_backward: the function needs the other array");
    const int64_t n = dy.size();
    for_storage(dy, [&](auto zero) {
        using T = decltype(zero);
        T* const to = dx.as<T>();
        const T *const upstream = dy.as<T>(), *const from = saved.as<T>();
        if (n == 0) return;
        const bool packed = packable<T>(0, to, upstream, from);
        const auto kernel =
            packed ? activation_backward_elements<T, kPack<T>> : activation_backward_elements<T, 1>;
        const dim3 grid(blocks_for(n, kThreads * (packed ? kPack<T> : 1)));
        launch(name, kernel, grid, dim3(kThreads), stream, to, upstream, from, rule, n);
    });
}

}  // namespace byhand
