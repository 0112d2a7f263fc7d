// A caching allocator for activations.
//
// A training step allocates and frees the same large arrays again and again. Handed back to the
// system, each would come back as fresh zeroed pages, one page fault per 4 KiB; kept here, the
// next step finds them warm. Blocks are rounded up to size classes 1/8 of a power of two apart, so
// at most 1/8 of a block is slack.
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
