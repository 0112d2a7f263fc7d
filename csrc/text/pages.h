// Large arrays in pages of their own, which the system gets back as soon as they are freed. malloc
// keeps freed memory for itself, glibc's even for the thread that allocated it.
#pragma once

#include <cstddef>
#include <limits>
#include <new>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace byhand::text {

template <class T>
struct PageAllocator {
    using value_type = T;
    PageAllocator() = default;
    template <class U>
    PageAllocator(const PageAllocator<U>&) {}

    T* allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_alloc();
#if defined(__unix__) || defined(__APPLE__)
        if (count * sizeof(T) >= kLarge) {
            void* const pages = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANON, -1, 0);
            if (pages == MAP_FAILED) throw std::bad_alloc();
            return static_cast<T*>(pages);
        }
#endif
        return static_cast<T*>(::operator new(count * sizeof(T)));
    }
    void deallocate(T* array, std::size_t count) {
#if defined(__unix__) || defined(__APPLE__)
        if (count * sizeof(T) >= kLarge) {
            munmap(array, count * sizeof(T));
            return;
        }
#endif
        ::operator delete(array);
    }
    bool operator==(const PageAllocator&) const { return true; }
    bool operator!=(const PageAllocator&) const { return false; }

  private:
    static constexpr std::size_t kLarge = std::size_t{1} << 19;  // bytes
};

template <class T>
using Pages = std::vector<T, PageAllocator<T>>;

}  // namespace byhand::text
