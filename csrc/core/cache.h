// The sizes of this processor's caches.
#pragma once

#include <cstdint>

namespace byhand {

inline constexpr std::int64_t kLineFloats = 16;  // floats in a cache line

// Bytes of the second-level cache that one core may assume: between 256 KB and 2 MB, because a
// larger cache is shared between cores, and 512 KB where the system does not say.
std::int64_t second_level_cache();

// Bytes of the last-level caches that the threads of this back end use together, 32 MB where the
// system does not say. set_last_level_cache replaces this number; 0 restores it.
std::int64_t last_level_cache();
void set_last_level_cache(std::int64_t bytes);

}  // namespace byhand
