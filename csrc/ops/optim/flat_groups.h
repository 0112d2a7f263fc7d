// What the CPU bodies of the optimizers' steps share: the groups of a flat buffer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/rows.h"

namespace byhand {

// Counts a step that is made (clip is a number) and returns how many were made.
inline double count_step(std::int64_t* t, float clip) {
    if (!std::isnan(clip)) ++*t;
    return static_cast<double>(*t);
}

// Calls body(group, from, count), in parallel, for runs of elements that together are all n; each
// run is in one group. Group i ends at end[i], the last one at n.
template <class Body>
void for_groups(std::int64_t n, const std::int64_t* end, std::int64_t groups, Body&& body) {
    parallel_for(n, kGrain, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t i = 0; i < groups && from < to; ++i) {
            const std::int64_t border = i + 1 < groups ? std::clamp(end[i], from, to) : to;
            body(i, from, border - from);
            from = border;
        }
    });
}

// The pointer to element i of an array that may be absent.
template <class T>
T* at(T* array, std::int64_t i) {
    return array == nullptr ? nullptr : array + i;
}

}  // namespace byhand
