#include "ops/elementwise/activation.h"

#include <stdexcept>
#include <string>

#include "core/rows.h"
#include "simd/vecmath.h"

namespace byhand {
namespace {

[[noreturn]] void refuse(const char* kernel) {
    throw std::invalid_argument(std::string(kernel) + ": there is no such function");
}

// How many elements ahead of the current ones are prefetched: a page of 4 KiB, at whose end the
// hardware prefetchers stop.
constexpr std::int64_t kAhead = 1024;

// y = f(x) for n elements.
template <class F>
void apply(const Out& y, const In& x, F f) {
    const float* const from = x.as<float>();
    float* const to = y.as<float>();
    const Into place = place_for(to, y.size(), {from});
    parallel_for(y.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
        const float* const source = from + begin;
        const auto word = [=](std::int64_t i, std::int64_t lanes) {
            return f(Vec::load(source + i, lanes));
        };
        write_words(to + begin, end - begin, place, word,
                    [=](std::int64_t i) { __builtin_prefetch(source + i + kAhead); });
        stream_fence();
    });
}

// dx = g(dy, s), where s is x or y.
template <class G>
void apply(const Out& dx, const In& dy, const Maybe<In>& s, G g) {
    if (!s) throw std::invalid_argument("activation_backward: the function needs the other array");
    const float *const dyp = dy.as<float>(), *const sp = s.as<float>();
    float* const to = dx.as<float>();
    const Into place = place_for(to, dx.size(), {dyp, sp});
    parallel_for(dx.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
        const float *const d = dyp + begin, *const source = sp + begin;
        const auto word = [=](std::int64_t i, std::int64_t lanes) {
            return g(Vec::load(d + i, lanes), Vec::load(source + i, lanes));
        };
        write_words(to + begin, end - begin, place, word, [=](std::int64_t i) {
            __builtin_prefetch(d + i + kAhead);
            __builtin_prefetch(source + i + kAhead);
        });
        stream_fence();
    });
}

}  // namespace

void activation_forward(Out y, In x, std::int64_t function, double a, double b, Stream) {
    const Vec av = Vec::set(static_cast<float>(a)), bv = Vec::set(static_cast<float>(b));
    switch (static_cast<Activation>(function)) {
        case Activation::step:
            return apply(y, x, [](Vec v) {
                return select(v >= Vec::zero(), Vec::set(1.0f),
                              select(v < Vec::zero(), Vec::zero(), v));
            });
        case Activation::sigmoid:
            return apply(y, x, [](Vec v) { return sigmoid(v); });
        case Activation::tanh:
            return apply(y, x, [](Vec v) { return tanh(v); });
        case Activation::relu:
            return apply(y, x, [](Vec v) { return max(Vec::zero(), v); });
        case Activation::leaky_relu:
            return apply(y, x, [=](Vec v) { return select(v > Vec::zero(), v, av * v); });
        case Activation::elu:
            return apply(y, x, [=](Vec v) {
                return select(v > Vec::zero(), bv * v, av * expm1_negative(v));
            });
        case Activation::gelu:
            return apply(y, x, [](Vec v) { return gelu_erf(v); });
        case Activation::gelu_tanh:
            return apply(y, x, [](Vec v) { return gelu_tanh(v); });
        case Activation::silu:
            return apply(y, x, [](Vec v) { return silu(v); });
        case Activation::softplus: {
            const Vec over = Vec::set(static_cast<float>(1.0 / a));
            return apply(y, x, [=](Vec v) {
                const Vec z = av * v;
                return select(z > bv, v, softplus(z) * over);
            });
        }
    }
    refuse("activation_forward");
}

void activation_backward(Out dx, In dy, Maybe<In> x, Maybe<In> y, std::int64_t function, double a,
                         double b, Stream) {
    const Vec av = Vec::set(static_cast<float>(a)), bv = Vec::set(static_cast<float>(b));
    switch (static_cast<Activation>(function)) {
        case Activation::step:
            return apply(dx, dy, y, [](Vec, Vec) { return Vec::zero(); });
        case Activation::sigmoid:
            return apply(dx, dy, y, [](Vec d, Vec s) { return d * (s * (Vec::set(1.0f) - s)); });
        case Activation::tanh:
            return apply(dx, dy, y, [](Vec d, Vec s) {
                return d * ((Vec::set(1.0f) - s) * (Vec::set(1.0f) + s));
            });
        case Activation::relu:
            return apply(dx, dy, y,
                         [](Vec d, Vec s) { return select(s <= Vec::zero(), Vec::zero(), d); });
        case Activation::leaky_relu:
            return apply(dx, dy, y,
                         [=](Vec d, Vec s) { return select(s > Vec::zero(), d, av * d); });
        case Activation::elu:
            return apply(dx, dy, y,
                         [=](Vec d, Vec s) { return d * select(s > Vec::zero(), bv, s + av); });
        case Activation::gelu:
            return apply(dx, dy, x, [](Vec d, Vec v) { return d * gelu_erf_derivative(v); });
        case Activation::gelu_tanh:
            return apply(dx, dy, x, [](Vec d, Vec v) { return d * gelu_tanh_derivative(v); });
        case Activation::silu:
            return apply(dx, dy, x, [](Vec d, Vec v) { return d * silu_derivative(v); });
        case Activation::softplus:
            return apply(dx, dy, x, [=](Vec d, Vec v) {
                const Vec z = av * v;
                return select(z > bv, d, d * sigmoid(z));
            });
    }
    refuse("activation_backward");
}

}  // namespace byhand
