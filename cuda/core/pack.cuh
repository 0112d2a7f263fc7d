// Loads and stores of 16 bytes a thread, and of one element where alignment forbids them.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

template <class T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));  // elements in 16 bytes

// Reads N consecutive elements as floats: N = kPack<T> (p aligned to 16 bytes) or N = 1.
template <int N, class T>
BYHAND_DEVICE void load(float (&v)[N], const T* p) {
    static_assert(N == 1 || N == kPack<T>);
    if constexpr (N == 1) {
        v[0] = to_float(*p);
    } else if constexpr (std::is_same_v<T, float>) {
        const uint4 word = load16(p);
        v[0] = float_of(word.x), v[1] = float_of(word.y);
        v[2] = float_of(word.z), v[3] = float_of(word.w);
    } else {
        const uint4 word = load16(p);
        const unsigned pairs[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // a bfloat16 is the upper half of the float it stands for
            v[2 * i] = float_of(pairs[i] << 16);
            v[2 * i + 1] = float_of(pairs[i] & 0xffff0000u);
        }
    }
}

template <int N, class T>
BYHAND_DEVICE void store(T* p, const float (&v)[N]) {
    static_assert(N == 1 || N == kPack<T>);
    if constexpr (N == 1) {
        *p = from_float<T>(v[0]);
    } else if constexpr (std::is_same_v<T, float>) {
        store16(p, {bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])});
    } else {
        unsigned pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            pairs[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
        }
        store16(p, {pairs[0], pairs[1], pairs[2], pairs[3]});
    }
}

// True when rows of `cols` elements can be read 16 bytes at a time from all these arrays (absent
// ones, null, do not object).
template <class T, class... P>
bool packable(int64_t cols, const P*... pointers) {
    const auto aligned = [](const void* p) {
        return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
    };
    return cols % kPack<T> == 0 && (aligned(pointers) && ...);
}

}  // namespace byhand
