// Loads and stores of 16 bytes per thread, or of one element where the alignment is insufficient.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

template <class T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));  // elements in 16 bytes

// N consecutive elements as they are stored: N = kPack<T> (aligned to 16 bytes) or N = 1.
template <class T, int N>
using Word = std::conditional_t<N == 1, T, uint4>;

template <int N, class T>
BYHAND_DEVICE Word<T, N> read_word(const T* p) {
    static_assert(N == 1 || N == kPack<T>);
    if constexpr (N == 1) {
        return *p;
    } else {
        return load16(p);
    }
}

template <class T, int N>
BYHAND_DEVICE void unpack(float (&v)[N], const Word<T, N>& word) {
    if constexpr (N == 1) {
        v[0] = to_float(word);
    } else {
        const unsigned words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (std::is_same_v<T, float>) {
                v[i] = float_of(words[i]);
            } else {  // a bfloat16 is the upper half of a float
                v[2 * i] = float_of(words[i] << 16);
                v[2 * i + 1] = float_of(words[i] & 0xffff0000u);
            }
        }
    }
}

// Reads N consecutive elements as floats.
template <int N, class T>
BYHAND_DEVICE void load(float (&v)[N], const T* p) {
    unpack<T>(v, read_word<N>(p));
}

template <class T, int N>
BYHAND_DEVICE Word<T, N> pack(const float (&v)[N]) {
    static_assert(N == 1 || N == kPack<T>);
    if constexpr (N == 1) {
        return from_float<T>(v[0]);
    } else if constexpr (std::is_same_v<T, float>) {
        return {bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])};
    } else {
        unsigned pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
        return {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
}

// Writes N consecutive elements to global memory.
template <int N, class T>
BYHAND_DEVICE void store(T* p, const float (&v)[N]) {
    if constexpr (N == 1) {
        *p = pack<T>(v);
    } else {
        store16_global(p, pack<T>(v));
    }
}

// The same to shared memory.
template <int N, class T>
BYHAND_DEVICE void store_shared(T* p, const float (&v)[N]) {
    if constexpr (N == 1) {
        *p = pack<T>(v);
    } else {
        store16(p, pack<T>(v));
    }
}

// Consecutive float32 elements, as many as a pack of another type has: f(i, part) for each pack of
// floats.
template <int V, class F>
BYHAND_DEVICE void for_float_packs(F&& f) {
    constexpr int kStep = V < kPack<float> ? V : kPack<float>;
#pragma unroll
    for (int i = 0; i < V; i += kStep) {
        float part[kStep];
        f(i, part);
    }
}

template <int V>
BYHAND_DEVICE void load_floats(float (&v)[V], const float* from) {
    for_float_packs<V>([&](int i, auto& part) {
        load(part, from + i);
        constexpr int kStep = sizeof(part) / sizeof(float);
#pragma unroll
        for (int j = 0; j < kStep; ++j) v[i + j] = part[j];
    });
}

// v += from
template <int V>
BYHAND_DEVICE void add_from(float (&v)[V], const float* from) {
    for_float_packs<V>([&](int i, auto& part) {
        load(part, from + i);
        constexpr int kStep = sizeof(part) / sizeof(float);
#pragma unroll
        for (int j = 0; j < kStep; ++j) v[i + j] += part[j];
    });
}

template <int V>
BYHAND_DEVICE void store_floats(float* to, const float (&v)[V]) {
    for_float_packs<V>([&](int i, auto& part) {
        constexpr int kStep = sizeof(part) / sizeof(float);
#pragma unroll
        for (int j = 0; j < kStep; ++j) part[j] = v[i + j];
        store(to + i, part);
    });
}

// True if rows of `cols` elements can be read 16 bytes at a time from all these arrays. Null
// pointers are ignored.
template <class T, class... P>
bool packable(int64_t cols, const P*... pointers) {
    const auto aligned = [](const void* p) {
        return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
    };
    return cols % kPack<T> == 0 && (aligned(pointers) && ...);
}

}  // namespace byhand
