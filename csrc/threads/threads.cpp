#include "threads/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace byhand {
namespace {

constexpr int kMaxThreads = 256;
// A training step consists of hundreds of kernels with tens of microseconds of Python between them,
// and waking a sleeping thread takes as long. So a worker spins for this long before it sleeps, and
// yields its core to other threads meanwhile.
constexpr std::chrono::microseconds kSpin{1000};
// For so long a thread waits for the others to complete their chunks before it sleeps.
constexpr std::chrono::microseconds kPatience{100};
// The most chunks of a slice: their claims cost little, and at the end of a loop no thread has to
// wait for long.
constexpr std::int64_t kChunks = 8;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

int affinity_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
}

// The CPU quota of a container (cgroup v2, then v1), rounded up; a large number when unlimited.
int quota_cpus() {
    double quota = -1, period = 0;
    if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2) {
        std::string text;
        if (v2 >> text >> period && text != "max") quota = std::strtod(text.c_str(), nullptr);
    } else if (std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"); q) {
        std::ifstream p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
        if (!(q >> quota && p >> period)) quota = -1;
    }
    if (quota <= 0 || period <= 0) return kMaxThreads;
    return std::max(1, static_cast<int>(quota / period + 0.999));
}

int default_threads() {
    if (const char* text = std::getenv("OMP_NUM_THREADS")) {
        const int n = std::atoi(text);
        if (n > 0) return std::min(n, kMaxThreads);
    }
    return std::min({affinity_cpus(), quota_cpus(), kMaxThreads});
}

std::atomic<int> g_threads{0};
thread_local bool t_inside = false;

// A loop over [0, n), cut into slices * chunks chunks of about equal length. A thread begins with
// the slice of its own index and then helps with the others.
struct Job {
    detail::Task task = nullptr;
    void* context = nullptr;
    std::int64_t n = 0, slices = 0, chunks = 0;
    std::uint64_t ticket = 0;
};

Job cut(std::int64_t n, std::int64_t grain, detail::Task task, void* context) {
    const std::int64_t most = std::max<std::int64_t>(n / std::max<std::int64_t>(grain, 1), 1);
    const std::int64_t slices = std::min<std::int64_t>(most, num_threads());
    return {task, context, n, slices, std::min(most / slices, kChunks), 0};
}

class Pool {
  public:
    // Executes the job with the caller as thread 0; returns when all chunks are complete.
    void run(Job job) {
        grow(static_cast<int>(job.slices) - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job.ticket = ticket_.load(std::memory_order_relaxed) + 1;
            job_ = job;
            error_ = nullptr;
            pending_.store(job.slices * job.chunks, std::memory_order_relaxed);
            ticket_.store(job.ticket, std::memory_order_seq_cst);
        }
        if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
        take_part(job, 0);
        wait_for_others();
        if (error_) std::rethrow_exception(error_);
    }

    std::mutex& owner() { return owner_; }

  private:
    // The chunks of each slice that are taken: the ticket of the last job that took one, and their
    // number. A worker that comes late, with a copy of an old job, sees a newer ticket.
    struct alignas(64) Taken {
        static constexpr int kBits = 8;
        std::atomic<std::uint64_t> value{0};
        // The index of a chunk that no other thread has taken; job.chunks if there is none.
        std::int64_t take(const Job& job) {
            const std::uint64_t none = job.ticket << kBits;
            std::uint64_t seen = value.load(std::memory_order_relaxed);
            for (;;) {
                const std::uint64_t now = std::max(seen, none);
                const auto chunk = static_cast<std::int64_t>(now - none);
                if (chunk >= job.chunks) return job.chunks;
                if (value.compare_exchange_weak(seen, now + 1, std::memory_order_relaxed)) {
                    return chunk;
                }
            }
        }
    };
    static_assert(kChunks < 1 << Taken::kBits);

    class PoolClaims final : public Claims {
      public:
        PoolClaims(Pool& pool, const Job& job, std::int64_t thread)
            : Claims(0), pool_(pool), job_(job), slice_(thread), left_(job.slices) {}

        // Takes the chunk that next() returns first. The job may be complete already, and what it
        // refers to gone; without a chunk a thread must not begin with it.
        bool take() {
            for (; left_ > 0; --left_, slice_ = (slice_ + 1) % job_.slices) {
                const std::int64_t chunk = pool_.taken_[slice_].take(job_);
                if (chunk == job_.chunks) continue;
                at_ = slice_ * job_.chunks + chunk;
                return taken_ = true;
            }
            return false;
        }

        bool next(std::int64_t& begin, std::int64_t& end) override {
            if (!taken_) {
                if (left_ == 0) return false;
                pool_.complete();
                if (!take()) return false;
            }
            taken_ = false;
            const std::int64_t all = job_.slices * job_.chunks;
            begin = job_.n * at_ / all;
            end = job_.n * (at_ + 1) / all;
            return true;
        }

      private:
        Pool& pool_;
        const Job& job_;
        std::int64_t slice_, left_, at_ = 0;
        bool taken_ = false;  // chunk at_ is taken, and next() has not returned it
    };

    void grow(int workers) {
        while (static_cast<int>(threads_.size()) < workers) {
            const auto index = static_cast<std::int64_t>(threads_.size()) + 1;
            const auto seen = ticket_.load(std::memory_order_relaxed);
            threads_.emplace_back([this, index, seen] { work(index, seen); });
            threads_.back().detach();  // workers live as long as the process
        }
    }

    void work(std::int64_t index, std::uint64_t seen) {
        t_inside = true;
        for (;;) {
            wait_for_job(seen);
            Job job;
            {
                std::lock_guard<std::mutex> lock(mutex_);
                job = job_;
            }
            seen = job.ticket;
            if (index < job.slices) take_part(job, index);
        }
    }

    void wait_for_job(std::uint64_t seen) {
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0;; ++i) {
            if (ticket_.load(std::memory_order_acquire) != seen) return;
            pause();
            if (i % 64 != 63) continue;
            const auto waited = std::chrono::steady_clock::now() - begin;
            // If the last job still runs, its thread may need this core.
            if (waited > (pending_.load(std::memory_order_relaxed) > 0 ? kPatience : kSpin)) break;
            std::this_thread::yield();  // the caller may be waiting for this core
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return ticket_.load(std::memory_order_relaxed) != seen; });
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }

    // Marks a chunk as complete. Its results are visible to the caller when it finds none pending.
    void complete() {
        if (pending_.fetch_sub(1, std::memory_order_seq_cst) > 1) return;
        if (!waiting_.load(std::memory_order_seq_cst)) return;
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_one();
    }

    // First it spins. But if the system has taken the core from a worker in the middle of a chunk,
    // the caller must sleep for the worker to continue on its core.
    void wait_for_others() {
        const auto done = [this] { return pending_.load(std::memory_order_seq_cst) == 0; };
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0;; ++i) {
            if (done()) return;
            pause();
            if (i % 64 == 63 && std::chrono::steady_clock::now() - begin > kPatience) break;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        waiting_.store(true, std::memory_order_seq_cst);
        finished_.wait(lock, done);
        waiting_.store(false, std::memory_order_relaxed);
    }

    void take_part(const Job& job, std::int64_t index) {
        PoolClaims claims(*this, job, index);
        if (!claims.take()) return;
        const bool outer = t_inside;
        t_inside = true;
        try {
            job.task(job.context, claims);
        } catch (...) {
            {
                std::lock_guard<std::mutex> lock(mutex_);
                if (!error_) error_ = std::current_exception();
            }
            for (std::int64_t begin, end; claims.next(begin, end);) {  // the rest is not executed
            }
        }
        t_inside = outer;
    }

    std::mutex owner_;  // held by the caller whose job runs
    std::mutex mutex_;  // guards job_ and error_
    std::condition_variable wake_, finished_;
    std::atomic<std::uint64_t> ticket_{0};
    std::atomic<std::int64_t> pending_{0};  // chunks of the job that are not complete
    std::atomic<int> sleepers_{0};
    std::atomic<bool> waiting_{false};
    Taken taken_[kMaxThreads];
    Job job_;
    std::exception_ptr error_;
    std::vector<std::thread> threads_;
};

// Never destroyed: workers may still be spinning while the process exits. A forked child does not
// inherit its parent's threads, so it gets a new pool.
Pool* g_pool = nullptr;
std::once_flag g_once;

Pool& pool() {
    std::call_once(g_once, [] {
        g_pool = new Pool;
#if !defined(_WIN32)
        pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });
#endif
    });
    return *g_pool;
}

}  // namespace

int num_threads() {
    int n = g_threads.load(std::memory_order_relaxed);
    if (n == 0) {
        n = default_threads();
        g_threads.store(n, std::memory_order_relaxed);
    }
    return n;
}

void set_num_threads(int n) {
    if (n < 1 || n > kMaxThreads) {
        throw std::invalid_argument("the number of threads must be between 1 and " +
                                    std::to_string(kMaxThreads) + ", got " + std::to_string(n));
    }
    g_threads.store(n, std::memory_order_relaxed);
}

namespace detail {

bool serial(std::int64_t n, std::int64_t grain) {
    return t_inside || num_threads() == 1 || n < 2 * std::max<std::int64_t>(grain, 1);
}

void run(std::int64_t n, std::int64_t grain, Task task, void* context) {
    Pool& p = pool();
    std::unique_lock<std::mutex> owner(p.owner(), std::try_to_lock);
    if (owner.owns_lock()) return p.run(cut(n, grain, task, context));
    Claims all(n);
    task(context, all);
}

}  // namespace detail

float* scratch(std::size_t floats, int slot) {
    struct Block {
        float* data = nullptr;
        std::size_t capacity = 0;
        ~Block() { ::operator delete(data, std::align_val_t{64}); }
    };
    thread_local Block blocks[kScratchSlots];
    Block& block = blocks[slot];
    if (block.capacity < floats || block.data == nullptr) {
        const std::size_t capacity = std::max<std::size_t>({floats, block.capacity * 3 / 2, 1024});
        ::operator delete(block.data, std::align_val_t{64});
        block.data = nullptr;
        block.capacity = 0;
        block.data =
            static_cast<float*>(::operator new(capacity * sizeof(float), std::align_val_t{64}));
        block.capacity = capacity;
    }
    return block.data;
}

}  // namespace byhand
