#include "emulator/shared.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "emulator/report.h"
#include "emulator/sanitizer.h"

namespace byhand::emulator {
namespace {

constexpr unsigned char kUnset = 0xff, kUntouched = 0xa5;

}  // namespace

void SharedMemory::begin(std::size_t dynamic_bytes) {
    if (!memory_) memory_.reset(new unsigned char[kBytes]);
    forbid(memory_.get(), kBytes);
    top_ = memory_.get();
    static_bytes_ = 0;
    placed_.clear();
    dynamic_ = nullptr;
    dynamic_site_ = {"the dynamic shared memory", {}, dynamic_bytes, 128};
    if (dynamic_bytes > 0) dynamic_ = carve(dynamic_site_);
}

void SharedMemory::end() { permit(memory_.get(), kBytes); }

unsigned char* SharedMemory::place(const SharedSite& site) {
    for (const Placed& placed : placed_) {
        if (placed.site == &site) return placed.data;
    }
    static_bytes_ += site.bytes;
    if (static_bytes_ > kMaxStatic || static_bytes_ + dynamic_site_.bytes > kMax) return nullptr;
    return carve(site);
}

unsigned char* SharedMemory::carve(const SharedSite& site) {
    // Aligned exactly as its type requires, so that a kernel that needs more alignment without
    // declaring it fails.
    auto address = reinterpret_cast<std::uintptr_t>(top_) + kGuard;
    address = (address + site.alignment - 1) / site.alignment * site.alignment;
    if (address / site.alignment % 2 == 0) address += site.alignment;
    auto* const data = reinterpret_cast<unsigned char*>(address);
    unsigned char* const after = data + site.bytes;
    if (after + kGuard > memory_.get() + kBytes) return nullptr;
    permit(top_, static_cast<std::size_t>(after + kGuard - top_));
    std::fill(top_, data, kUntouched);
    std::fill(data, after, kUnset);
    std::fill(after, after + kGuard, kUntouched);
    forbid(top_, static_cast<std::size_t>(data - top_));
    forbid(after, kGuard);
    placed_.push_back({&site, data});
    top_ = after + kGuard;
    return data;
}

bool SharedMemory::owns(const void* p, std::size_t bytes) const {
    const auto* const begin = static_cast<const unsigned char*>(p);
    return std::any_of(placed_.begin(), placed_.end(), [&](const Placed& placed) {
        return begin >= placed.data && begin + bytes <= placed.data + placed.site->bytes;
    });
}

std::uintptr_t SharedMemory::origin() const {
    return reinterpret_cast<std::uintptr_t>(memory_.get()) / 1024 * 1024;
}

unsigned SharedMemory::address(const void* p) const {
    return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(p) - origin());
}

unsigned char* SharedMemory::at(unsigned address) const {
    return reinterpret_cast<unsigned char*>(origin() + address);
}

std::string SharedMemory::damage() const {
    if (BYHAND_ASAN) return "";  // AddressSanitizer has already reported the write
    const auto touched = [](const unsigned char* p) {
        return std::any_of(p, p + kGuard, [](unsigned char byte) { return byte != kUntouched; });
    };
    for (const Placed& placed : placed_) {
        if (touched(placed.data - kGuard) || touched(placed.data + placed.site->bytes)) {
            return "something was written beyond the ends of " +
                   text(placed.site->name, placed.site->where);
        }
    }
    return "";
}

}  // namespace byhand::emulator
