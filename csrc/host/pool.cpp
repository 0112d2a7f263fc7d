#include "host/pool.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace byhand {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Stored in front of each block, so that releasing it needs no lookup.
struct alignas(kAlignment) Header {
    std::size_t bytes;
};

std::size_t size_class(std::size_t bytes) {
    if (bytes <= 1024) return (bytes + 63) / 64 * 64;
    std::size_t power = 1024;
    while (power < bytes / 2) power *= 2;
    const std::size_t step = power / 8;
    return (bytes + step - 1) / step * step;
}

struct Pool {
    std::mutex mutex;
    std::map<std::size_t, std::vector<Header*>> free;
    PoolStats stats{};
};

// Never destroyed: arrays may outlive every static object at interpreter exit.
Pool& pool() {
    static Pool* instance = [] {
        auto* p = new Pool;
#if !defined(_WIN32)
        pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); },
                       [] { pool().mutex.unlock(); });
#endif
        return p;
    }();
    return *instance;
}

// Large blocks use huge pages where available: fewer page faults, fewer TLB misses.
std::size_t alignment_of(std::size_t bytes) {
    return bytes >= 2 * kHugePage ? kHugePage : kAlignment;
}

void release(Header* header) {
    ::operator delete(header, std::align_val_t{alignment_of(header->bytes)});
}

// Null where there is no memory: AddressSanitizer ends the process where operator new would throw.
Header* fresh_block(std::size_t bytes) noexcept {
    const std::size_t alignment = alignment_of(bytes);
    std::size_t total = bytes + sizeof(Header);
    total = (total + alignment - 1) / alignment * alignment;
    if (total < bytes) return nullptr;
    // Not std::aligned_alloc, which Windows lacks.
    void* base = ::operator new(total, std::align_val_t{alignment}, std::nothrow);
    if (base == nullptr) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == kHugePage) madvise(base, total, MADV_HUGEPAGE);
#endif
    auto* header = static_cast<Header*>(base);
    header->bytes = bytes;
    return header;
}

}  // namespace

void* pool_allocate(std::size_t bytes) {
    if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
    const std::size_t size = size_class(std::max<std::size_t>(bytes, 1));
    Pool& p = pool();
    Header* header = nullptr;
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        auto found = p.free.find(size);
        if (found != p.free.end() && !found->second.empty()) {
            header = found->second.back();
            found->second.pop_back();
            p.stats.cached -= size;
        }
    }
    if (header == nullptr) header = fresh_block(size);
    if (header == nullptr) {
        pool_trim();
        header = fresh_block(size);
    }
    if (header == nullptr) throw std::bad_alloc();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.stats.in_use += size;
    p.stats.peak = std::max(p.stats.peak, p.stats.in_use);
    return header + 1;
}

void pool_release(void* block) noexcept {
    if (block == nullptr) return;
    Header* header = static_cast<Header*>(block) - 1;
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.stats.in_use -= header->bytes;
    try {
        p.free[header->bytes].push_back(header);
        p.stats.cached += header->bytes;
    } catch (...) {
        release(header);
    }
}

PoolStats pool_stats() {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    return p.stats;
}

void pool_reset_peak() {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.stats.peak = p.stats.in_use;
}

void pool_trim() {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    for (auto& [size, blocks] : p.free) {
        for (Header* header : blocks) release(header);
        blocks.clear();
    }
    p.stats.cached = 0;
}

}  // namespace byhand
