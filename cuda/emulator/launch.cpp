#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>

#include "core/cuda.cuh"
#include "emulator/report.h"
#include "threads/threads.h"

namespace byhand::emulator {
namespace {

void require(bool holds, const Kernel& kernel, const std::string& why) {
    if (!holds) throw std::runtime_error(std::string(kernel.name) + ": " + why);
}

void check_limits(const Kernel& kernel, Extent grid, Extent block, std::int64_t dynamic_bytes) {
    const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    require(threads >= 1 && threads <= Block::kMaxThreads && block.z <= 64, kernel,
            "a block has 1 to 1024 threads and at most 64 in z, got (" + list(block) + ")");
    require(grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= kMaxGrid && grid.y <= 65535 &&
                grid.z <= 65535,
            kernel,
            "a grid has 1 to 2147483647 blocks in x and 1 to 65535 in y and z, got (" + list(grid) +
                ")");
    require(dynamic_bytes >= 0 && dynamic_bytes <= static_cast<std::int64_t>(SharedMemory::kMax),
            kernel,
            "a block has at most 227 KB of shared memory, got " + std::to_string(dynamic_bytes) +
                " bytes");
}

// The blocks that a thread of the operating system runs reuse stacks and memory. To ThreadSanitizer
// that orders them. So under it two Blocks alternate: neighbouring blocks share nothing, and only a
// block and the one after the next are ordered.
Block& runner(std::int64_t index) {
    thread_local std::unique_ptr<Block> blocks[2];
    std::unique_ptr<Block>& block = blocks[BYHAND_TSAN ? index % 2 : 0];
    if (!block) block = std::make_unique<Block>();
    return *block;
}

// Orders everything that the threads of the grid did before the caller's next action.
struct Join {
    explicit Join(Launch& launch) : launch(launch) { launch.begin.release(); }
    ~Join() { launch.end.acquire(); }
    Launch& launch;
};

std::atomic<unsigned> last{0};

}  // namespace

unsigned last_block() { return last; }

void run_grid(const Kernel& kernel, Extent grid, Extent block, std::int64_t dynamic_bytes) {
    const Quiet quiet;
    check_limits(kernel, grid, block, dynamic_bytes);
    Launch launch = {kernel,     grid, block, static_cast<std::size_t>(dynamic_bytes),
                     schedule(), {},   {}};
    last = launch.threads();
    const std::int64_t blocks = std::int64_t{grid.x} * grid.y * grid.z;
    const Join join(launch);
    std::atomic<bool> failed{false};
    // ThreadSanitizer finds races without real parallelism, and supports at most 8128 fibers, so
    // the grid runs on one thread under it.
    const std::int64_t grain = BYHAND_TSAN ? blocks : 1;
    parallel_for(blocks, grain, [&](std::int64_t begin, std::int64_t end) {
        const Quiet quiet;
        try {
            for (std::int64_t i = begin; i < end && !failed; ++i) {
                const std::int64_t index = launch.schedule.backwards() ? blocks - 1 - i : i;
                runner(index).run(launch, static_cast<std::uint64_t>(index));
            }
        } catch (...) {
            failed = true;
            throw;
        }
    });
}

void* shared(const SharedSite& site) {
    const Quiet quiet;
    if (void* const data = block().shared().place(site)) return data;
    block().fail(site.name, site.where,
                 "its " + std::to_string(site.bytes) +
                     " bytes do not fit: a block has 48 KB of shared variables, and 227 KB of "
                     "shared memory in all");
}

unsigned char* dynamic_shared(Where where) {
    const Quiet quiet;
    if (unsigned char* const data = block().shared().dynamic()) return data;
    block().fail("BYHAND_DYNAMIC_SHARED", where, "the kernel was launched without any");
}

void require_aligned(const char* what, const void* p, Where where) {
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) {
        block().fail(what, where, "the address is not aligned to 16");
    }
}

void require_global(const char* what, const void* p, Where where) {
    if (block().shared().owns(p, 16)) {
        block().fail(what, where, "the address is not in global memory");
    }
}

}  // namespace byhand::emulator
