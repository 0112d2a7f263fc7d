// A small thread pool. The threads of a loop claim chunks of it one after the other, so that a
// thread which the system holds back leaves its chunks to the others.
//
// It is used in place of OpenMP because a second OpenMP runtime in one process oversubscribes the
// cores, its pool does not survive fork(), and compilers on macOS come without it. In kernels the
// order of every sum depends on the shape alone, so results are the same bits for any number of
// threads, whichever thread computes a chunk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace byhand {

// Threads that parallel_for may use, the caller included. The default is OMP_NUM_THREADS when set,
// else the CPUs this process may run on, within its cgroup's quota.
int num_threads();
void set_num_threads(int n);

// The chunks of a loop that one thread executes.
class Claims {
  public:
    explicit Claims(std::int64_t n) : n_(n) {}  // all n indices as one chunk, for a serial loop
    virtual ~Claims() = default;

    // Sets [begin, end) to the next chunk of this thread, whose previous chunk is then complete;
    // false when no chunk is left.
    virtual bool next(std::int64_t& begin, std::int64_t& end) {
        begin = 0;
        end = n_;
        n_ = 0;
        return end > 0;
    }

  private:
    std::int64_t n_;
};

namespace detail {
using Task = void (*)(void* context, Claims& claims);
bool serial(std::int64_t n, std::int64_t grain);
void run(std::int64_t n, std::int64_t grain, Task task, void* context);
}  // namespace detail

// Calls f(claims) on each thread that takes part in a loop over [0, n); f claims chunks until none
// is left. A chunk holds at least `grain` indices unless n itself is smaller. The first chunks of
// the threads are equally far apart, and those of consecutive claims are neighbours as long as no
// thread lags behind, so two loops over the same rows find them in the same caches. Serial when
// called from inside another parallel loop, or while another thread of the program holds the pool.
// The first exception is rethrown.
template <class F>
void parallel_claims(std::int64_t n, std::int64_t grain, F&& f) {
    if (n <= 0) return;
    if (detail::serial(n, grain)) {
        Claims all(n);
        f(all);
        return;
    }
    auto task = [](void* context, Claims& claims) {
        (*static_cast<std::remove_reference_t<F>*>(context))(claims);
    };
    detail::run(n, grain, task, const_cast<void*>(static_cast<const void*>(&f)));
}

// The same for an f(begin, end) that is called for each chunk.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& f) {
    parallel_claims(n, grain, [&](Claims& claims) {
        for (std::int64_t begin, end; claims.next(begin, end);) f(begin, end);
    });
}

// Scratch memory of the calling thread: 64-byte aligned, grown once and reused. A pointer stays
// valid until the same thread requests the same slot again.
inline constexpr int kScratchSlots = 4;
float* scratch(std::size_t floats, int slot = 0);

}  // namespace byhand
