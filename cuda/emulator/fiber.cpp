#include "emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if !BYHAND_UCONTEXT
// byhand_switch(void** save, void* load): pushes the callee-saved registers, stores the stack
// pointer in *save, sets it to `load`, and pops the registers from there.
extern "C" void byhand_switch(void** save, void* load) __attribute__((visibility("hidden")));

#if defined(__APPLE__)
#define BYHAND_SYMBOL "_byhand_switch"
#else
#define BYHAND_SYMBOL "byhand_switch"
#endif

#if defined(__x86_64__)
asm(".text\n"
    ".p2align 4\n"
    ".globl " BYHAND_SYMBOL "\n" BYHAND_SYMBOL
    ":\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    retq\n");
#else
asm(".text\n"
    ".p2align 4\n"
    ".globl " BYHAND_SYMBOL "\n" BYHAND_SYMBOL
    ":\n"
    "    stp x19, x20, [sp, #-160]!\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x19, x20, [sp], #160\n"
    "    ret\n");
#endif
#endif

namespace byhand::emulator {
namespace {

std::size_t page() {
    static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

#if BYHAND_ASAN
thread_local Context* t_left = nullptr;  // the one that was running before the last switch
#endif

}  // namespace

Stack::Stack() {
    void* const memory = mmap(nullptr, page() + kBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    low_ = static_cast<char*>(memory) + page();
    if (mprotect(memory, page(), PROT_NONE) != 0) {
        munmap(memory, page() + kBytes);
        throw std::bad_alloc();
    }
}

Stack::~Stack() {
    permit(low_, kBytes);
    munmap(low_ - page(), page() + kBytes);
}

void Context::adopt() {
#if BYHAND_TSAN
    tsan_ = __tsan_get_current_fiber();
#endif
}

void Context::create() {
#if BYHAND_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
}

void Context::start_on(const Stack& stack, void (*entry)()) {
#if BYHAND_ASAN
    low_ = stack.low();
    bytes_ = Stack::kBytes;
#endif
#if BYHAND_UCONTEXT
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.low();
    context_.uc_stack.ss_size = Stack::kBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    // The values that byhand_switch pops: zeros and the address of entry. The tops of neighbouring
    // stacks have different offsets, so that they do not map to the same cache lines.
    const auto colour = reinterpret_cast<std::uintptr_t>(stack.low()) / Stack::kBytes % 32 * 64;
    void** top = reinterpret_cast<void**>(stack.high() - 64 - colour);
#if defined(__x86_64__)
    *--top = nullptr;  // where entry would return to
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
#else
    top -= 20;
    for (int i = 0; i < 20; ++i) top[i] = nullptr;
    top[11] = reinterpret_cast<void*>(entry);  // x30
#endif
    stack_pointer_ = top;
#endif
}

BYHAND_NO_TSAN void Context::switch_to(Context& from, Context& to, [[maybe_unused]] bool last) {
#if BYHAND_ASAN
    t_left = &from;
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack_, to.low_, to.bytes_);
#endif
#if BYHAND_TSAN
    __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if BYHAND_UCONTEXT
    swapcontext(&from.context_, &to.context_);
#else
    byhand_switch(&from.stack_pointer_, to.stack_pointer_);
#endif
#if BYHAND_ASAN
    __sanitizer_finish_switch_fiber(from.fake_stack_, &t_left->low_, &t_left->bytes_);
#endif
}

void Context::arrived() {
#if BYHAND_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &t_left->low_, &t_left->bytes_);
#endif
}

std::unique_ptr<Stack> StackPool::take() {
    if (free_.empty()) free_.push_back(std::make_unique<Stack>());
    std::unique_ptr<Stack> stack = std::move(free_.back());
    free_.pop_back();
    permit(stack->low(), Stack::kBytes);  // the previous fiber ended without returning
    return stack;
}

}  // namespace byhand::emulator
