// A caching allocator for activations.
//
// Every training step allocates and frees large arrays of the same sizes. If they were returned to
// the system, each allocation would map new zeroed pages, at one page fault per 4 KiB. Blocks are
// kept for reuse instead. Sizes are rounded up to classes 1/8 of a power of two apart, so at most
// 1/8 of a block is unused.
#pragma once

#include <cstddef>

namespace byhand {

void* pool_allocate(std::size_t bytes);  // 64-byte aligned; throws std::bad_alloc
void pool_release(void* block) noexcept;

struct PoolStats {
    std::size_t in_use;  // bytes handed out
    std::size_t cached;  // bytes kept for reuse
    std::size_t peak;    // the most bytes handed out at once since pool_reset_peak()
};
PoolStats pool_stats();
void pool_reset_peak();
void pool_trim();  // gives every cached block back to the system

}  // namespace byhand
