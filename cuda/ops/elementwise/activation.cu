#include "core/elements.cuh"
#include "core/gelu.cuh"
#include "ops/elementwise/activation.h"

namespace byhand {
namespace {

struct Rule {
    Activation function;
    float a, b;
};

// 1 / (1 + exp(-x)), for results stored as T.
template <class T>
BYHAND_DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + exp_for<T>(-x));
}

template <class T, int U, int V>
BYHAND_DEVICE void apply(float (&v)[U][V], const Rule& rule) {
    const float a = rule.a, b = rule.b;
    switch (rule.function) {
        case Activation::step:
            return each(v, [](float x) { return x >= 0.0f ? 1.0f : x < 0.0f ? 0.0f : x; });
        case Activation::sigmoid:
            return each(v, [](float x) { return sigmoid<T>(x); });
        case Activation::tanh:
            return each(v, [](float x) { return tanhf(x); });
        case Activation::relu:
            return each(v, [](float x) { return at_least(x, 0.0f); });
        case Activation::leaky_relu:
            return each(v, [=](float x) { return x > 0.0f ? x : a * x; });
        case Activation::elu:
            return each(v, [=](float x) { return x > 0.0f ? b * x : a * expm1f(x); });
        case Activation::gelu:
            return each(v, [](float x) { return gelu<T>(x, false).value; });
        case Activation::gelu_tanh:
            return each(v, [](float x) { return gelu<T>(x, true).value; });
        case Activation::silu:
            return each(v, [](float x) { return x / (1.0f + exp_for<T>(-x)); });
        case Activation::softplus:
            return each(v, [=](float x) {
                const float z = a * x;
                const float smooth = (at_least(z, 0.0f) + log1pf(exp_for<T>(-fabsf(z)))) / a;
                return z > b ? x : smooth;
            });
    }
}

// d: the gradient of y, then of x. s: what the function saves.
template <class T, int U, int V>
BYHAND_DEVICE void apply(float (&d)[U][V], const float (&s)[U][V], const Rule& rule) {
    const float a = rule.a, b = rule.b;
    switch (rule.function) {
        case Activation::step:
            return each(d, s, [](float, float) { return 0.0f; });
        case Activation::sigmoid:
            return each(d, s, [](float dy, float y) { return dy * (y * (1.0f - y)); });
        case Activation::tanh:
            return each(d, s, [](float dy, float y) { return dy * ((1.0f - y) * (1.0f + y)); });
        case Activation::relu:
            return each(d, s, [](float dy, float y) { return y <= 0.0f ? 0.0f : dy; });
        case Activation::leaky_relu:
            return each(d, s, [=](float dy, float y) { return y > 0.0f ? dy : a * dy; });
        case Activation::elu:
            return each(d, s, [=](float dy, float y) { return dy * (y > 0.0f ? b : y + a); });
        case Activation::gelu:
            return each(d, s, [](float dy, float x) { return dy * gelu<T>(x, false).slope; });
        case Activation::gelu_tanh:
            return each(d, s, [](float dy, float x) { return dy * gelu<T>(x, true).slope; });
        case Activation::silu:
            return each(d, s, [](float dy, float x) { return dy * silu<T>(x).slope; });
        case Activation::softplus:
            return each(d, s,
                        [=](float dy, float x) { return a * x > b ? dy : dy * sigmoid<T>(a * x); });
    }
}

// Several loads of a thread are in flight at the same time.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    activation_forward_elements(T* y, const T* x, Rule rule, int64_t n) {
    constexpr int kPacks = kElements / V;
    const int64_t whole = n / V * V;
    for (int64_t start = blockIdx.x * kBlock; start < whole; start += gridDim.x * kBlock) {
        float v[kPacks][V] = {};
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) < whole) load(v[u], x + pack_at<V>(start, u));
        }
        apply<T>(v, rule);
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) < whole) store(y + pack_at<V>(start, u), v[u]);
        }
    }
    const int64_t last = whole + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) {
        float v[1][1] = {{to_float(x[last])}};
        apply<T>(v, rule);
        y[last] = from_float<T>(v[0][0]);
    }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    activation_backward_elements(T* dx, const T* dy, const T* saved, Rule rule, int64_t n) {
    constexpr int kPacks = kElements / V;
    const int64_t whole = n / V * V;
    for (int64_t start = blockIdx.x * kBlock; start < whole; start += gridDim.x * kBlock) {
        float d[kPacks][V] = {}, s[kPacks][V] = {};
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) >= whole) continue;
            load(d[u], dy + pack_at<V>(start, u));
            load(s[u], saved + pack_at<V>(start, u));
        }
        apply<T>(d, s, rule);
#pragma unroll
        for (int u = 0; u < kPacks; ++u) {
            if (pack_at<V>(start, u) < whole) store(dx + pack_at<V>(start, u), d[u]);
        }
    }
    const int64_t last = whole + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) {
        float d[1][1] = {{to_float(dy[last])}}, s[1][1] = {{to_float(saved[last])}};
        apply<T>(d, s, rule);
        dx[last] = from_float<T>(d[0][0]);
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
        const dim3 grid(blocks_for(n, kBlock));
        launch(name, kernel, grid, dim3(kThreads), stream, to, from, rule, n);
    });
}

void activation_backward(Out dx, In dy, Maybe<In> x, Maybe<In> y, std::int64_t function, double a,
                         double b, Stream stream) {
    const char* name = "activation_backward";
    const Rule rule = rule_of(name, function, a, b);
    if (!(needs_x(rule.function) ? x : y))
        throw std::invalid_argument("activation_backward: the function needs the other array");
    const int64_t n = dy.size();
    for_storage(dy, [&](auto zero) {
        using T = decltype(zero);
        T* const to = dx.as<T>();
        // Both are looked at, so that an array of another dtype is refused for every function.
        const T *const upstream = dy.as<T>(), *const xs = x.as<T>(), *const ys = y.as<T>();
        const T* const from = needs_x(rule.function) ? xs : ys;
        if (n == 0) return;
        const bool packed = packable<T>(0, to, upstream, from);
        const auto kernel =
            packed ? activation_backward_elements<T, kPack<T>> : activation_backward_elements<T, 1>;
        const dim3 grid(blocks_for(n, kBlock));
        launch(name, kernel, grid, dim3(kThreads), stream, to, upstream, from, rule, n);
    });
}

}  // namespace byhand
