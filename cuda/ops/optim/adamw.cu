#include "core/pack.cuh"
#include "ops/optim/adamw.h"
#include "ops/optim/adamw_scalars.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;

struct Groups {
    const AdamWScalars* work;
    const int64_t* bounds;
    int64_t count;
};

// One warp: increments the step count and computes the scalars of each group.
__global__ void __launch_bounds__(kWarp, 1)
    adamw_prepare(AdamWScalars* work, int64_t* t, const float* norm, const float* lr,
                  const float* weight_decay, int64_t groups, double beta1, double beta2,
                  double max_norm) {
    const int64_t count = *t + 1;
    sync_block();  // all threads have read t
    const float clip = adamw_clip(norm, max_norm);
    if (threadIdx.x == 0 && !std::isnan(clip)) *t = count;
    const double share1 = adamw_share(beta1, static_cast<double>(count));
    const double share2 = adamw_share(beta2, static_cast<double>(count));
    for (int64_t i = threadIdx.x; i < groups; i += kWarp) {
        work[i] = adamw_scalars(lr[i], weight_decay[i], share1, share2, clip);
    }
}

// The parameter group of a thread's element. Elements ascend, so the group seldom changes.
class Place {
  public:
    explicit BYHAND_DEVICE Place(const Groups& groups) : groups_(groups) {}

    BYHAND_DEVICE void enter(int64_t i) {  // the group of element i
        if (i >= end_) find(i);
    }
    BYHAND_DEVICE bool holds(int64_t i) const { return i < end_; }
    BYHAND_DEVICE const AdamWScalars& step() const { return step_; }

  private:
    static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

    BYHAND_DEVICE void find(int64_t i) {
        int64_t low = 0, high = groups_.count - 1;  // the last group has all remaining elements
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (i < groups_.bounds[middle]) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        end_ = low == groups_.count - 1 ? kNever : groups_.bounds[low];
        step_ = groups_.work[low];
    }

    Groups groups_;
    int64_t end_ = 0;
    AdamWScalars step_ = {};
};

BYHAND_DEVICE void update(float& w, float& m, float& v, float g, const AdamWScalars& step,
                          const AdamWBetas& b) {
    if (std::isnan(step.clip)) return;
    g *= step.clip;
    m = fmaf(b.beta1, m, b.rest1 * g);
    v = fmaf(b.beta2, v, b.rest2 * g * g);
    w = fmaf(w, step.keep, -(step.rate * m / fmaf(sqrtf(v), step.root, b.eps)));
}

// A thread loads four elements at a time, whatever their type: 16 bytes of float32 and 8 bytes of
// bfloat16, so that the accesses of a warp are contiguous in both.
constexpr int kFour = 4;
struct alignas(kFour * sizeof(bf16)) FourHalves {
    bf16 v[kFour];
};

template <int V, class T>
BYHAND_DEVICE void load_few(float (&v)[V], const T* p) {
    if constexpr (V == 1 || V == kPack<T>) {
        load(v, p);
    } else {
        const FourHalves word = *reinterpret_cast<const FourHalves*>(p);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = to_float(word.v[j]);
    }
}

template <int V, class T>
BYHAND_DEVICE void store_few(T* p, const float (&v)[V]) {
    if constexpr (V == 1 || V == kPack<T>) {
        store(p, v);
    } else {
        FourHalves word;
#pragma unroll
        for (int j = 0; j < V; ++j) word.v[j] = from_float<bf16>(v[j]);
        *reinterpret_cast<FourHalves*>(p) = word;
    }
}

// A thread loads kUnroll times V elements of every array before it uses any. The last elements, and
// the packs that contain the end of a group, are processed one by one.
template <int V, class G, class C>
__global__ void __launch_bounds__(kThreads, 1)
    adamw_update(float* w, float* m, float* v, C* copy, const G* g, Groups groups, AdamWBetas betas,
                 int64_t n) {
    constexpr int64_t kBlock = static_cast<int64_t>(kThreads) * V * kUnroll;
    Place place(groups);
    const int64_t stride = gridDim.x * kBlock;
    for (int64_t start = blockIdx.x * kBlock; start < n; start += stride) {
        float wi[kUnroll][V], mi[kUnroll][V], vi[kUnroll][V], gi[kUnroll][V];
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            const int64_t i = start + (k * kThreads + static_cast<int>(threadIdx.x)) * V;
            if (i + V > n) continue;
            load_few(wi[k], w + i);
            load_few(mi[k], m + i);
            load_few(vi[k], v + i);
            load_few(gi[k], g + i);
        }
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            const int64_t i = start + (k * kThreads + static_cast<int>(threadIdx.x)) * V;
            place.enter(i);
            if (i + V <= n && place.holds(i + V - 1)) {
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    update(wi[k][j], mi[k][j], vi[k][j], gi[k][j], place.step(), betas);
                }
                store_few(w + i, wi[k]);
                store_few(m + i, mi[k]);
                store_few(v + i, vi[k]);
                if (copy != nullptr) store_few(copy + i, wi[k]);
            } else if constexpr (V > 1) {
#pragma unroll 1
                for (int64_t one = i; one < min(i + V, n); ++one) {
                    place.enter(one);
                    update(w[one], m[one], v[one], to_float(g[one]), place.step(), betas);
                    if (copy != nullptr) copy[one] = from_float<C>(w[one]);
                }
            }
        }
    }
}

template <class T>
bool aligned(const T* p) {
    return reinterpret_cast<std::uintptr_t>(p) % (kFour * sizeof(T)) == 0;
}

}  // namespace

void adamw_step(Mut w, Mut m, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                In weight_decay, In bounds, double beta1, double beta2, double eps, double max_norm,
                Stream stream) {
    float *const wp = w.as<float>(), *const mp = m.as<float>(), *const vp = v.as<float>();
    auto* const scalars = reinterpret_cast<AdamWScalars*>(work.as<float>());
    const Groups groups{scalars, bounds.as<int64_t>(), lr.size()};
    const AdamWBetas betas(beta1, beta2, eps);
    const int64_t n = w.size();

    const auto run = [&](auto gradient, auto half) {
        using G = decltype(gradient);
        using C = decltype(half);
        const G* const gp = g.as<G>();
        C* const cp = copy.as<C>();
        launch("adamw_step", adamw_prepare, dim3(1), dim3(kWarp), stream, scalars, t.as<int64_t>(),
               norm.as<float>(), lr.as<float>(), weight_decay.as<float>(), groups.count, beta1,
               beta2, max_norm);
        if (n == 0) return;
        const bool packed = aligned(wp) && aligned(mp) && aligned(vp) && aligned(gp) && aligned(cp);
        const auto kernel = packed ? adamw_update<kFour, G, C> : adamw_update<1, G, C>;
        const auto most = static_cast<unsigned>(resident_blocks("adamw_step", kernel, kThreads));
        const unsigned enough = blocks_for(n, kThreads * kUnroll * (packed ? kFour : 1));
        launch("adamw_step", kernel, dim3(std::min(most, enough)), dim3(kThreads), stream, wp, mp,
               vp, cp, gp, groups, betas, n);
    };
    for_storage(g, [&](auto gradient) {
        if (!copy) return run(gradient, bf16{});
        for_storage(copy, [&](auto half) { run(gradient, half); });
    });
}

}  // namespace byhand
