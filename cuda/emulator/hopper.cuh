// core/hopper.cuh for the CPU; emulator/hopper.h describes what is emulated.
#pragma once

#include "emulator/hopper.h"

namespace byhand {

constexpr bool kHopper = true;
inline bool on_hopper() { return true; }

template <int kRegisters>
void give_registers() {
    static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}
template <int kRegisters>
void take_registers() {
    static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}

inline unsigned shared_address(const void* p) { return emulator::block().shared().address(p); }

using emulator::map_matrix;
using emulator::PhaseBarrier;
using emulator::TensorMap;

inline void copy_box_async(void* shared, const TensorMap& map, int row, int col,
                           PhaseBarrier& barrier, Where where = Where::here()) {
    emulator::block().hopper().copy({shared, map, row, col}, barrier, where);
}

inline void open_barrier(PhaseBarrier& b, int arrivals, Where where = Where::here()) {
    emulator::block().hopper().open(b, arrivals, where);
}
inline void share_barriers() {}
inline void arrive(PhaseBarrier& b, Where where = Where::here()) {
    emulator::block().hopper().arrive("arrive", b, 0, where);
}
inline void arrive_and_expect(PhaseBarrier& b, int bytes, Where where = Where::here()) {
    emulator::block().hopper().arrive("arrive_and_expect", b, bytes, where);
}
inline void wait_phase(PhaseBarrier& b, unsigned parity, Where where = Where::here()) {
    emulator::block().hopper().wait(b, parity, where);
}

inline unsigned long long operand(const void* shared, int leading, int stride,
                                  Where where = Where::here()) {
    return emulator::block().hopper().operand(shared, leading, stride, where);
}
template <bool kLeftAcross, bool kRightAcross>
void product_async(float (&d)[16][4], unsigned long long left, unsigned long long right,
                   Where where = Where::here()) {
    emulator::block().hopper().multiply(
        {{&d[0][0]}, left, right, kLeftAcross, kRightAcross, where});
}
template <int kM>
void open_products(float (&)[kM][16][4], Where where = Where::here()) {
    emulator::block().hopper().open_products(where);
}
inline void close_products(Where where = Where::here()) {
    emulator::block().hopper().close_products(where);
}
template <int kOpen>
void wait_products(Where where = Where::here()) {
    emulator::block().hopper().wait_products("wait_products", kOpen, false, where);
}
template <int kM>
void wait_all_products(float (&)[kM][16][4], Where where = Where::here()) {
    emulator::block().hopper().wait_products("wait_all_products", 0, true, where);
}

}  // namespace byhand
