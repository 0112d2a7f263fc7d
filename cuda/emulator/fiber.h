// A fiber, which is a stack and a saved context, runs one CUDA thread on the CPU. Fibers run in
// turn on one thread of the operating system and are switched explicitly.
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

namespace byhand::emulator {

// The memory of a stack, with a guard page below it.
class Stack {
  public:
    static constexpr std::size_t kBytes = 256 * 1024;  // only the pages that are used take memory

    Stack();
    ~Stack();
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    char* low() const { return low_; }
    char* high() const { return low_ + kBytes; }

  private:
    char* low_;
};

// The saved context of a fiber, or of the thread of the operating system that runs the fibers.
class Context {
  public:
    Context() = default;
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    void adopt();   // the caller's own stack
    void create();  // once, by the driver; the call is ordered before the fiber's code
    void start_on(const Stack& stack, void (*entry)());  // entry never returns

    // Saves `from` and resumes `to`. Returns when `from` is resumed; if `last`, never.
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

// Unused stacks; the one used last is reused first.
class StackPool {
  public:
    std::unique_ptr<Stack> take();
    void give(std::unique_ptr<Stack> stack) { free_.push_back(std::move(stack)); }

  private:
    std::vector<std::unique_ptr<Stack>> free_;
};

}  // namespace byhand::emulator
