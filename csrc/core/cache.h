// How large this processor's caches are.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <unistd.h>
#endif

namespace byhand {

// Bytes of the second-level cache that one core can count on: between 256 KB and 2 MB, since a
// larger one is shared between cores, and 512 KB where the system does not say.
inline std::int64_t second_level_cache() {
    static const std::int64_t bytes = [] {
        std::int64_t found = 0;
#if defined(__APPLE__)
        std::size_t size = sizeof(found);
        if (sysctlbyname("hw.l2cachesize", &found, &size, nullptr, 0) != 0) found = 0;
#elif defined(_SC_LEVEL2_CACHE_SIZE)
        found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        if (found <= 0) return std::int64_t{512} << 10;
        return std::clamp<std::int64_t>(found, 256 << 10, 2 << 20);
    }();
    return bytes;
}

}  // namespace byhand
