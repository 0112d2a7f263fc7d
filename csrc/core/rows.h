// Loops over the elements of a row, shared by the kernels that are limited by memory bandwidth.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "core/cache.h"
#include "simd/vec.h"
#include "threads/threads.h"

namespace byhand {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Work below this many elements is not worth a second thread.
inline constexpr std::int64_t kGrain = 16384;

// How many items of `elements` elements each a slice of parallel_for should hold at least.
inline std::int64_t grain_of(std::int64_t elements) {
    return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, elements));
}

// Calls body(r) for every row of a matrix, in parallel.
template <class Body>
void for_rows(std::int64_t rows, std::int64_t cols, Body&& body) {
    parallel_for(rows, grain_of(cols), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) body(r);
        stream_fence();
    });
}

// Everything is inlined into the loops below. Full vectors pass the constant Vec::width as their
// number of lanes, for which Vec::load and Vec::store need no mask; only the tail has a mask.
#define BYHAND_FLATTEN __attribute__((flatten)) inline

// Calls body(i, lanes) for each vector of n elements.
template <class Body>
BYHAND_FLATTEN void for_words(std::int64_t n, Body&& body) {
    std::int64_t i = 0;
    for (; i + Vec::width <= n; i += Vec::width) body(i, std::int64_t{Vec::width});
    if (i < n) body(i, n - i);
}

// How a kernel writes its result: into the caches, or to memory with non-temporal stores. With
// ordinary stores the processor first reads each line that it overwrites, which is a third of the
// traffic of a copy.
enum class Into { caches, memory };

// The choice for `size` floats at y that are computed from as many at each of `sources`, which may
// be null. If more than twice the capacity of the caches is read and written, most of the result
// would be evicted before the next kernel reads it. An array that is read and written in place is
// in the caches already.
inline Into place_for(const float* y, std::int64_t size,
                      std::initializer_list<const float*> sources) {
    std::int64_t arrays = 1;
    for (const float* source : sources) {
        if (source == y) return Into::caches;
        arrays += source != nullptr;
    }
    const std::int64_t bytes = arrays * size * std::int64_t{sizeof(float)};
    return bytes > 2 * last_level_cache() ? Into::memory : Into::caches;
}

// y[i] = word(i, lanes) for each vector of n elements, inside for_rows. Only whole cache lines are
// written with non-temporal stores. Short rows that share lines with their neighbours are not: a
// line that is written in both ways costs more than many lines.
template <class Word>
BYHAND_FLATTEN void write_words(float* y, std::int64_t n, Into place, Word&& word) {
    constexpr std::int64_t w = Vec::width, kShort = 64 * kLineFloats;
    const auto put = [&](std::int64_t i, std::int64_t lanes) {
        word(i, lanes).store(y + i, lanes);
    };
    const auto before = static_cast<std::int64_t>(
        -(reinterpret_cast<std::uintptr_t>(y) / sizeof(float)) % kLineFloats);
    const std::int64_t end = n - (n - before) % kLineFloats;
    if (place == Into::caches || (n < kShort && (before > 0 || end < n))) {
        for_words(n, put);
        return;
    }
    for_words(before, put);
    for (std::int64_t i = before; i < end; i += w) word(i, w).stream(y + i);
    for_words(n - end, [&](std::int64_t i, std::int64_t lanes) { put(end + i, lanes); });
}

// write_words, and where the result goes past the caches, prefetch(i) is called for each vector.
template <class Word, class Prefetch>
BYHAND_FLATTEN void write_words(float* y, std::int64_t n, Into place, Word&& word,
                                Prefetch&& prefetch) {
    if (place == Into::caches) return write_words(y, n, Into::caches, word);
    write_words(y, n, place, [&](std::int64_t i, std::int64_t lanes) {
        prefetch(i);
        return word(i, lanes);
    });
}

// Reduces n elements to one vector, or a struct of vectors: partial = step(partial, i, lanes).
// There are four independent partials, because a single one would wait for the latency of its own
// additions; `join` combines them.
template <class Partial, class Step, class Join>
BYHAND_FLATTEN Partial fold_words(std::int64_t n, Partial start, Step&& step, Join&& join) {
    constexpr std::int64_t w = Vec::width;
    Partial a = start, b = start, c = start, d = start;
    std::int64_t i = 0;
    for (; i + 4 * w <= n; i += 4 * w) {
        a = step(a, i, w);
        b = step(b, i + w, w);
        c = step(c, i + 2 * w, w);
        d = step(d, i + 3 * w, w);
    }
    for (; i + w <= n; i += w) a = step(a, i, w);
    if (i < n) b = step(b, i, n - i);
    return join(join(a, b), join(c, d));
}

// step(sum, i, lanes) adds a vector to the sum. Lanes past the end must add 0.
template <class Step>
BYHAND_FLATTEN float sum_words(std::int64_t n, Step&& step) {
    return fold_words(n, Vec::zero(), step, [](Vec a, Vec b) { return a + b; }).sum();
}

inline float sum_row(const float* x, std::int64_t n) {
    return sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        return sum + Vec::load(x + i, lanes);
    });
}

// The maximum over word(i, lanes), or `least` when n is 0. NaN is ignored. Lanes past the end must
// not exceed the maximum.
template <class Word>
BYHAND_FLATTEN float max_words(std::int64_t n, float least, Word&& word) {
    const auto step = [&](Vec best, std::int64_t i, std::int64_t lanes) {
        return max(word(i, lanes), best);
    };
    return fold_words(n, Vec::set(least), step, [](Vec a, Vec b) { return max(a, b); }).max();
}

// The first `lanes` lanes of a, `rest` in the others.
BYHAND_INLINE Vec keep_first(Vec a, std::int64_t lanes, float rest) {
    if (lanes >= Vec::width) return a;
    return select(Mask::first(lanes), a, Vec::set(rest));
}

// acc[j] += sum of partials[k * stride + j] over the k, in ascending order.
inline void add_partials(float* acc, const float* partials, std::int64_t count, std::int64_t stride,
                         std::int64_t cols) {
    parallel_for(cols, grain_of(count), [=](std::int64_t begin, std::int64_t end) {
        for_words(end - begin, [=](std::int64_t i, std::int64_t lanes) {
            const std::int64_t j = begin + i;
            Vec sum = Vec::zero();
            for (std::int64_t k = 0; k < count; ++k) {
                sum += Vec::load(partials + k * stride + j, lanes);
            }
            (Vec::load(acc + j, lanes) + sum).store(acc + j, lanes);
        });
    });
}

}  // namespace byhand
