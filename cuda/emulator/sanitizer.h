// Annotations of fibers for the sanitizers. Without a sanitizer they do nothing.
#pragma once

#include <cstddef>

#if defined(__has_feature)
#define BYHAND_HAS_FEATURE(x) __has_feature(x)
#else
#define BYHAND_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || BYHAND_HAS_FEATURE(thread_sanitizer)
#define BYHAND_TSAN 1
#define BYHAND_NO_TSAN __attribute__((no_sanitize("thread")))
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#else
#define BYHAND_TSAN 0
#define BYHAND_NO_TSAN
#endif
#if defined(__SANITIZE_ADDRESS__) || BYHAND_HAS_FEATURE(address_sanitizer)
#define BYHAND_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define BYHAND_ASAN 0
#endif

namespace byhand::emulator {

// Hides the emulator's own memory accesses from ThreadSanitizer.
struct Quiet {
#if BYHAND_TSAN
    Quiet() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~Quiet() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
#else
    Quiet() {}
    ~Quiet() {}
#endif
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;
};

// A "happens before" edge: everything before release is ordered before everything after acquire.
// For ThreadSanitizer these edges alone order the threads of a block.
struct Edge {
    char place = 0;
    void release() {
#if BYHAND_TSAN
        __tsan_release(&place);
#endif
    }
    void acquire() {
#if BYHAND_TSAN
        __tsan_acquire(&place);
#endif
    }
};

// Marks memory as inaccessible, and as accessible again, for AddressSanitizer.
inline void forbid([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if BYHAND_ASAN
    ASAN_POISON_MEMORY_REGION(p, bytes);
#endif
}
inline void permit([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if BYHAND_ASAN
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
#endif
}

}  // namespace byhand::emulator
