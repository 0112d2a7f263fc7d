// A small thread pool with static partition.
//
// It is used in place of OpenMP because a second OpenMP runtime in one process oversubscribes the
// cores, its pool does not survive fork(), and compilers on macOS come without it. Slices are
// assigned by index, so which thread computes which slice does not depend on timing. In kernels the
// order of every sum depends on the shape alone, so results are the same bits for any number of
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace byhand {

// Threads that parallel_for may use, the caller included. The default is OMP_NUM_THREADS when set,
// else the CPUs this process may run on, within its cgroup's quota.
int num_threads();
void set_num_threads(int n);

namespace detail {
using Task = void (*)(void* context, std::int64_t begin, std::int64_t end);
void run_slices(std::int64_t n, std::int64_t slices, Task task, void* context);
std::int64_t slice_count(std::int64_t n, std::int64_t grain);
}  // namespace detail

// Calls f(begin, end) on static slices of [0, n), in parallel. A slice holds at least `grain`
// indices unless n itself is smaller. Serial when called from inside another parallel_for, or
// while another thread of the program holds the pool. The first exception is rethrown.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& f) {
    if (n <= 0) return;
    const std::int64_t slices = detail::slice_count(n, grain);
    if (slices == 1) {
        f(std::int64_t{0}, n);
        return;
    }
    auto task = [](void* context, std::int64_t begin, std::int64_t end) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
    };
    detail::run_slices(n, slices, task, const_cast<void*>(static_cast<const void*>(&f)));
}

// Scratch memory of the calling thread: 64-byte aligned, grown once and reused. A pointer stays
// valid until the same thread requests the same slot again.
inline constexpr int kScratchSlots = 4;
float* scratch(std::size_t floats, int slot = 0);

}  // namespace byhand
