// The pass of an optimizer's step over the flat buffers: the weights, the gradient, the buffers of
// the optimizer's state (slots), and a copy of the new weights. What an optimizer adds is a rule,
// which updates one element:
//
//     struct Rule {
//         static constexpr int kSlots;      // buffers of state
//         static constexpr bool kOptional;  // whether any may be absent (nullptr)
//         using Scalars;                    // of a group, a row of `work`
//         BYHAND_DEVICE void update(float& w, float (&s)[kSlots], float g, const Scalars& step)
//             const;
//     };
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/pack.cuh"

namespace byhand {

inline constexpr int kFlatThreads = 256;
inline constexpr int kFlatUnroll = 2;

template <class Scalars>
struct FlatGroups {
    const Scalars* work;
    const int64_t* bounds;
    int64_t count;
};

template <int kSlots, class G, class C>
struct FlatArrays {
    float* w;
    float* slots[kSlots];
    C* copy;
    const G* g;
    int64_t n;
};

// Counts a step that is made (clip is a number), in a kernel of one warp, and returns its number.
BYHAND_DEVICE double count_step(int64_t* t, float clip) {
    const int64_t count = *t + 1;
    sync_block();  // all threads have read t
    if (threadIdx.x == 0 && !std::isnan(clip)) *t = count;
    return static_cast<double>(count);
}

// The parameter group of a thread's element. Elements ascend, so the group seldom changes.
template <class Scalars>
class Place {
  public:
    explicit BYHAND_DEVICE Place(const FlatGroups<Scalars>& groups) : groups_(groups) {}

    BYHAND_DEVICE void enter(int64_t i) {  // the group of element i
        if (i >= end_) find(i);
    }
    BYHAND_DEVICE bool holds(int64_t i) const { return i < end_; }
    BYHAND_DEVICE const Scalars& step() const { return step_; }

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

    FlatGroups<Scalars> groups_;
    int64_t end_ = 0;
    Scalars step_ = {};
};

// A thread loads four elements at a time, whatever their type: 16 bytes of float32 and 8 bytes of
// bfloat16, so that the accesses of a warp are contiguous in both.
inline constexpr int kFour = 4;
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

// The body of an update kernel. A thread loads kFlatUnroll times V elements of every array before
// it uses any. The last elements, and the packs that contain the end of a group, are processed one
// by one.
template <int V, class Rule, class G, class C>
BYHAND_DEVICE void update_flat(const FlatArrays<Rule::kSlots, G, C>& a,
                               const FlatGroups<typename Rule::Scalars>& groups, const Rule& rule) {
    constexpr int kSlots = Rule::kSlots;
    constexpr int64_t kBlock = static_cast<int64_t>(kFlatThreads) * V * kFlatUnroll;
    const auto given = [&](int s) { return !Rule::kOptional || a.slots[s] != nullptr; };
    Place<typename Rule::Scalars> place(groups);
    const int64_t n = a.n, stride = gridDim.x * kBlock;
    for (int64_t start = blockIdx.x * kBlock; start < n; start += stride) {
        float wi[kFlatUnroll][V], gi[kFlatUnroll][V], si[kFlatUnroll][kSlots][V];
#pragma unroll
        for (int k = 0; k < kFlatUnroll; ++k) {
            const int64_t i = start + (k * kFlatThreads + static_cast<int>(threadIdx.x)) * V;
            if (i + V > n) continue;
            load_few(wi[k], a.w + i);
#pragma unroll
            for (int s = 0; s < kSlots; ++s) {
                if (given(s)) load_few(si[k][s], a.slots[s] + i);
            }
            load_few(gi[k], a.g + i);
        }
#pragma unroll
        for (int k = 0; k < kFlatUnroll; ++k) {
            const int64_t i = start + (k * kFlatThreads + static_cast<int>(threadIdx.x)) * V;
            place.enter(i);
            if (i + V <= n && place.holds(i + V - 1)) {
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    float state[kSlots];
#pragma unroll
                    for (int s = 0; s < kSlots; ++s) state[s] = given(s) ? si[k][s][j] : 0.0f;
                    rule.update(wi[k][j], state, gi[k][j], place.step());
#pragma unroll
                    for (int s = 0; s < kSlots; ++s) si[k][s][j] = state[s];
                }
                store_few(a.w + i, wi[k]);
#pragma unroll
                for (int s = 0; s < kSlots; ++s) {
                    if (given(s)) store_few(a.slots[s] + i, si[k][s]);
                }
                if (a.copy != nullptr) store_few(a.copy + i, wi[k]);
            } else if constexpr (V > 1) {
#pragma unroll 1
                for (int64_t one = i; one < min(i + V, n); ++one) {
                    place.enter(one);
                    float state[kSlots];
#pragma unroll
                    for (int s = 0; s < kSlots; ++s) state[s] = given(s) ? a.slots[s][one] : 0.0f;
                    rule.update(a.w[one], state, to_float(a.g[one]), place.step());
#pragma unroll
                    for (int s = 0; s < kSlots; ++s) {
                        if (given(s)) a.slots[s][one] = state[s];
                    }
                    if (a.copy != nullptr) a.copy[one] = from_float<C>(a.w[one]);
                }
            }
        }
    }
}

template <class T>
bool aligned_few(const T* p) {
    return reinterpret_cast<std::uintptr_t>(p) % (kFour * sizeof(T)) == 0;
}

// Launches the update kernel: `packed` if all arrays allow accesses of kFour elements, else
// `single`.
template <int kSlots, class G, class C, class Groups, class Rule>
void launch_update(const char* name, void (*packed)(FlatArrays<kSlots, G, C>, Groups, Rule),
                   void (*single)(FlatArrays<kSlots, G, C>, Groups, Rule),
                   const FlatArrays<kSlots, G, C>& a, const Groups& groups, const Rule& rule,
                   Stream stream) {
    if (a.n == 0) return;
    bool few = aligned_few(a.w) && aligned_few(a.copy) && aligned_few(a.g);
    for (const float* slot : a.slots) few = few && aligned_few(slot);
    const auto kernel = few ? packed : single;
    const auto most = static_cast<unsigned>(resident_blocks(name, kernel, kFlatThreads));
    const unsigned enough = blocks_for(a.n, kFlatThreads * kFlatUnroll * (few ? kFour : 1));
    launch(name, kernel, dim3(std::min(most, enough)), dim3(kFlatThreads), stream, a, groups, rule);
}

// Calls f(G{}, C{}) with the types of the gradient and of the copy, bf16 where there is none.
template <class F>
void for_update_types(In g, Maybe<Out> copy, F&& f) {
    for_storage(g, [&](auto gradient) {
        if (!copy) return f(gradient, bf16{});
        for_storage(copy, [&](auto half) { f(gradient, half); });
    });
}

}  // namespace byhand
