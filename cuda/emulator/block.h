// One block of threads on the CPU: its fibers and their scheduling, its barriers, the exchanges of
// values within its warps, and its shared memory. A block runs from start to end on one thread of
// the operating system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/schedule.h"
#include "emulator/shared.h"

namespace byhand::emulator {

struct Extent {
    unsigned x, y, z;
};

// A kernel and its arguments.
struct Kernel {
    const char* name;
    void (*call)(const void* arguments);
    const void* arguments;
};

struct Launch {
    Kernel kernel;
    Extent grid, block;
    std::size_t dynamic_bytes;
    Schedule schedule;
    Edge begin, end;

    unsigned threads() const { return block.x * block.y * block.z; }
};

// A copy begun by copy_async16, that the issuing thread has not waited for.
struct AsyncCopy {
    void* to;
    const void* from;
    bool whole;
};

class Block;
class Hopper;

struct Fiber {
    Context context;
    std::unique_ptr<Stack> stack;  // from its start to its end
    Block* block = nullptr;
    Extent thread = {};  // threadIdx
    unsigned index = 0;
    bool started = false, ended = false;
    const char* what = "";  // the operation in which it waits, and its source line
    Where where = {};
    std::vector<AsyncCopy> copies;
    std::vector<std::size_t>
        groups;  // how many of the copies each committed group has, oldest first

    unsigned lane() const { return index % 32; }
    unsigned warp() const { return index / 32; }
};

class Block {
  public:
    static constexpr unsigned kMaxThreads = 1024;

    struct Queue {  // a set of threads
        unsigned warps = 0, lanes[32] = {};
        void add(unsigned thread);
        void add(unsigned warp, unsigned mask);
        void remove(unsigned thread);
        void move_to(Queue& other);
        bool empty() const { return warps == 0; }
        int first(unsigned from) const;  // the first one >= from; -1 without one
        int last(unsigned to) const;     // the last one <= to; -1 without one
    };

    Block();
    ~Block();

    // Runs one block. Throws std::runtime_error with one sentence if the kernel does something that
    // CUDA leaves undefined, after the stacks of all fibers have been unwound.
    void run(Launch& launch, std::uint64_t index);

    const Launch& launch() const { return *launch_; }
    Extent index() const { return index_; }

    // --- For the running fiber -------------------------------------------------------------------

    // Waits until all threads of the block have arrived.
    void barrier(const char* what, Where where) { barrier(0, threads_, what, where, true); }
    // Arrives and, if `waits`, waits until `threads` threads have arrived.
    void named_barrier(int id, int threads, const char* what, Where where, bool waits);

    // Exchanges values between the lanes in `mask` of one warp, which must all call it with the
    // same `what`. The last lane to arrive gets the pointers of all lanes and does the work for all
    // of them before any lane continues; the others get null afterwards. `order` also orders
    // memory.
    void* const* meet(const char* what, unsigned mask, void* mine, Where where, bool order = false);

    // Waits until woken.
    void wait_in(Queue& queue, const char* what, Where where);
    void wake(Queue& queue) { queue.move_to(ready_); }

    SharedMemory& shared() { return shared_; }
    Hopper& hopper() { return *hopper_; }

    // Ends the block with an error that names the running thread; the first error is reported.
    [[noreturn]] void fail(const char* what, Where where, const std::string& why);

  private:
    struct Unwind {};  // thrown to unwind the stack of a fiber
    struct Barrier {
        unsigned expected = 0, arrived = 0, turn = 0;
        Where where = {};
        Queue waiting;
        // Two edges alternate: a thread that arrives at the next barrier must not be ordered before
        // threads that are still leaving this one.
        Edge edge[2];
    };
    struct Meeting {
        unsigned mask = 0, arrived = 0, turn = 0;
        const char* what = "";
        Where where = {};
        void* lanes[32];
        Edge edge[2];
    };
    static constexpr int kMeetings = 8;

    static void entry();
    void begin(Launch& launch, std::uint64_t index);
    void end();
    Fiber* next();
    Fiber* go_on();
    void start(Fiber& fiber);
    void barrier(int id, unsigned threads, const char* what, Where where, bool waits);
    void wait(const char* what, Where where);  // until the running fiber is made ready
    [[noreturn]] void leave();                 // the running fiber has ended
    void refuse(const char* what, Where where, const std::string& why);
    void give_up();
    std::string stuck() const;

    Launch* launch_ = nullptr;
    Extent index_ = {};
    unsigned threads_ = 0, live_ = 0;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    Context home_;  // the thread of the operating system
    StackPool stacks_;
    std::unique_ptr<Stack>
        last_stack_;  // of the fiber that ended last, which may still be running on it
    Queue ready_;
    unsigned cursor_ = 0;  // the thread that ran last
    Random random_;
    Barrier barriers_[16];
    std::vector<Meeting> meetings_;  // kMeetings per warp
    SharedMemory shared_;
    std::unique_ptr<Hopper> hopper_;
    unsigned turn_ = 0;
    Edge ended_[2];  // from the threads of one block to those of the next
    std::string error_;
};

// The fiber that runs on this thread of the operating system.
extern __thread Fiber* running
#if defined(__GLIBC__)
    __attribute__((tls_model("initial-exec")))
#endif
    ;

// Runs every block of the grid, over the threads of threads/threads.h.
void run_grid(const Kernel& kernel, Extent grid, Extent block, std::int64_t dynamic_bytes);

// The threads per block of the last launch, by which tests tell the kernels of one op apart.
unsigned last_block();

}  // namespace byhand::emulator
