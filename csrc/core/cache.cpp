#include "core/cache.h"

#include <algorithm>
#include <atomic>
#include <bitset>
#include <cstdlib>
#include <fstream>
#include <string>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <unistd.h>
#endif

#include "threads/threads.h"

namespace byhand {
namespace {

std::atomic<std::int64_t> g_overruled{0};

#if defined(__APPLE__)
std::int64_t system_number(const char* name) {
    std::int64_t found = 0;
    std::size_t size = sizeof(found);
    return sysctlbyname(name, &found, &size, nullptr, 0) == 0 ? found : 0;
}
#endif

struct SharedCache {
    std::int64_t bytes = 0;
    int cpus = 1;  // that share this cache
};

// From /sys, because sysconf adds up the last-level caches of a whole package.
SharedCache found_last_level() {
    SharedCache last;
#if defined(__APPLE__)
    last.bytes = std::max(system_number("hw.l3cachesize"), system_number("hw.l2cachesize"));
    last.cpus = 1 << 16;
#else
    int highest = 0;
    for (int index = 0; index < 8; ++index) {
        const std::string folder =
            "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
        int level = 0, cpus = 0;
        std::int64_t kib = 0;  // "32768K"
        std::string map;       // hexadecimal digits: a bit for each CPU
        std::ifstream(folder + "level") >> level;
        std::ifstream(folder + "size") >> kib;
        std::ifstream(folder + "shared_cpu_map") >> map;
        for (const char digit : map) {
            const char text[] = {digit, '\0'};
            cpus += static_cast<int>(std::bitset<4>(std::strtoul(text, nullptr, 16)).count());
        }
        if (level <= highest || kib <= 0) continue;
        highest = level;
        last = {kib << 10, std::max(1, cpus)};
    }
#endif
    if (last.bytes <= 0) last.bytes = std::int64_t{32} << 20;
    return last;
}

}  // namespace

std::int64_t second_level_cache() {
    static const std::int64_t bytes = [] {
        std::int64_t found = 0;
#if defined(__APPLE__)
        found = system_number("hw.l2cachesize");
#elif defined(_SC_LEVEL2_CACHE_SIZE)
        found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        if (found <= 0) return std::int64_t{512} << 10;
        return std::clamp<std::int64_t>(found, 256 << 10, 2 << 20);
    }();
    return bytes;
}

std::int64_t last_level_cache() {
    static const SharedCache last = found_last_level();
    if (const std::int64_t overruled = g_overruled; overruled > 0) return overruled;
    return last.bytes * ((num_threads() + last.cpus - 1) / last.cpus);
}

void set_last_level_cache(std::int64_t bytes) { g_overruled = bytes; }

}  // namespace byhand
