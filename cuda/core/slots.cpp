#include "core/slots.h"

#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace byhand {
namespace {

struct Slot {
    std::uintptr_t stream = 0;
    std::uint64_t used = 0;  // the number of the last call that used it
};

// The handle cudaStreamPerThread means a different stream in each thread.
constexpr std::uintptr_t kPerThread = 2;  // and 1, cudaStreamLegacy, is the default stream 0

std::uintptr_t key_of(Stream stream) {
    const auto handle = reinterpret_cast<std::uintptr_t>(stream.handle);
    if (handle == 1) return 0;
    if (handle != kPerThread) return handle;
    return std::hash<std::thread::id>{}(std::this_thread::get_id()) | 1;  // other handles are even
}

}  // namespace

int slot_of(Stream stream) {
    static std::mutex mutex;
    static Slot slots[kSlots];
    static std::uint64_t calls = 0;
    const std::uintptr_t key = key_of(stream);
    const std::lock_guard<std::mutex> lock(mutex);
    int oldest = 0;
    for (int s = 0; s < kSlots; ++s) {
        if (slots[s].used != 0 && slots[s].stream == key) {
            slots[s].used = ++calls;
            return s;
        }
        if (slots[s].used < slots[oldest].used) oldest = s;
    }
    slots[oldest] = {key, ++calls};
    return oldest;
}

}  // namespace byhand
