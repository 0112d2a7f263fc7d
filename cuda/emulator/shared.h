// The shared memory of a block. A variable is placed when the first thread reaches its declaration,
// filled with 0xff (NaN as floats), with guard bytes on both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace byhand::emulator {

// The source line of a call, passed as a default argument.
struct Where {
    const char* file = nullptr;
    int line = 0;
    static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

// A shared variable: one of these per declaration and instantiation, as nvcc makes one.
struct SharedSite {
    const char* name;
    Where where;
    std::size_t bytes, alignment;
};

class SharedMemory {
  public:
    static constexpr std::size_t kMaxStatic = 48 * 1024;
    static constexpr std::size_t kMax = 227 * 1024;

    void begin(std::size_t dynamic_bytes);
    void end();

    // Null when there is no room.
    unsigned char* place(const SharedSite& site);
    unsigned char* dynamic() const { return dynamic_; }
    bool owns(const void* p, std::size_t bytes) const;
    // The address in the shared memory space of the GPU; its low bits are those of the pointer.
    unsigned address(const void* p) const;
    unsigned char* at(unsigned address) const;
    std::string damage() const;  // describes a write outside of variables; empty without one

  private:
    struct Placed {
        const SharedSite* site;
        unsigned char* data;
    };
    static constexpr std::size_t kGuard = 64;
    static constexpr std::size_t kBytes = kMax + 32 * 1024;

    unsigned char* carve(const SharedSite& site);
    std::uintptr_t origin() const;  // the address 0

    std::unique_ptr<unsigned char[]> memory_;
    unsigned char* top_ = nullptr;
    std::size_t static_bytes_ = 0;
    std::vector<Placed> placed_;
    SharedSite dynamic_site_ = {};
    unsigned char* dynamic_ = nullptr;
};

}  // namespace byhand::emulator
