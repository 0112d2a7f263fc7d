// The shared memory of a block: variables are placed as its threads come to their declarations,
// full of 0xff (floats: NaN) and with a guard on both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace byhand::host {

// The source line of a call: a default argument of what reports it.
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
    // What the GPU calls an address in shared memory: its low bits are those of the pointer.
    unsigned address(const void* p) const;
    unsigned char* at(unsigned address) const;
    std::string damage() const;  // what was written outside of any variable; empty if nothing was

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

}  // namespace byhand::host
