// A stack and a place to go on from: what a CUDA thread is on the CPU. Fibers take turns on one
// thread of the operating system; nothing happens to a fiber while another one runs.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "emulator/sanitizer.h"

#if !(defined(__x86_64__) || defined(__aarch64__))
#define BYHAND_UCONTEXT 1
#include <ucontext.h>
#else
#define BYHAND_UCONTEXT 0
#endif

namespace byhand::host {

// Memory for a fiber to run on, with a page below it that faults when it overflows.
class Stack {
  public:
    static constexpr std::size_t kBytes = 256 * 1024;  // touched pages count, and those are few

    Stack();
    ~Stack();
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    char* low() const { return low_; }
    char* high() const { return low_ + kBytes; }

  private:
    char* low_;
};

// Where a fiber, or the thread of the operating system that drives them, has stopped.
class Context {
  public:
    Context() = default;
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    void adopt();   // the caller's own stack
    void create();  // once, by the driver: whoever creates a fiber has happened before it
    void start_on(const Stack& stack, void (*entry)());  // entry never returns

    // Stops `from`, goes on with `to`. Returns when something switches back; if `last`, never.
    static void switch_to(Context& from, Context& to, bool last = false);
    static void arrived();  // what entry must call first

  private:
#if BYHAND_UCONTEXT
    ucontext_t context_ = {};
#else
    void* stack_pointer_ = nullptr;
#endif
#if BYHAND_TSAN
    void* tsan_ = nullptr;
#endif
#if BYHAND_ASAN
    const void* low_ = nullptr;
    std::size_t bytes_ = 0;
    void* fake_stack_ = nullptr;
#endif
};

// Stacks that wait for their next fiber; the one used last is handed out first.
class StackPool {
  public:
    std::unique_ptr<Stack> take();
    void give(std::unique_ptr<Stack> stack) { free_.push_back(std::move(stack)); }

  private:
    std::vector<std::unique_ptr<Stack>> free_;
};

}  // namespace byhand::host
