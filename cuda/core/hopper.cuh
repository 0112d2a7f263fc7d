// The primitives of a matrix kernel for Hopper (compute capability 9.0), in addition to those of
// cuda.cuh, and like them in two implementations: gpu/hopper.cuh and emulator/hopper.cuh.
//
//   where they exist  kHopper: whether the compiler generates code for sm_90a, or for the CPU.
//                     Kernels are empty otherwise: if constexpr (kHopper)
//                     on_hopper(): whether the current device runs that code
//   registers         give_registers<n>() take_registers<n>(): lower or raise the registers of each
//                     thread to n, for whole warpgroups: four warps, the first a multiple of four
//   matrices          TensorMap, a __grid_constant__ parameter of a kernel: a bfloat16 matrix in
//                     global memory, cut into boxes of 64 columns
//                     map_matrix(name, data, rows, cols, rows of a box): data aligned to 16, cols
//                     a multiple of 8
//                     copy_box_async(shared, map, row, col, barrier): the box that begins there,
//                     zeros outside of the matrix; `shared` aligned to 1024; called by one thread
//   phase barriers    PhaseBarrier, in shared memory. A phase ends when all arrivals and all
//                     expected bytes have come; phases are numbered from 0
//                     open_barrier(b, arrivals) by one thread, which calls share_barriers() after
//                     the last of them; sync_block() before they are used
//                     arrive(b) arrive_and_expect(b, bytes)
//                     wait_phase(b, parity): until the phase of that parity has ended; on a new
//                     barrier, parity 1 counts as ended
//   products          operand(shared, leading, stride): the descriptor of a factor
//                     product_async<left across, right across>(d, left, right) by a warpgroup:
//                     d (64,128) += left (64,16) right (16,128); its warp w has the 16 rows from
//                     16 w on, in the layout of Sums of mma.cuh. Asynchronous: shared memory and d
//                     are read later
//                     open_products(d) before the first one, and after other accesses to d
//                     close_products(): the products since the last call are a group
//                     wait_products<newest groups that may be open>()
//                     wait_all_products(d): afterwards d can be read
//
// A box is stored in shared memory as rows of 128 bytes. The 16 bytes number c of row r are at
// position c ^ r % 8, so that eight rows are read from different banks ("128-byte swizzle" in the
// PTX manual, 5.5.7). A factor is stored along the depth of the product, groups of eight rows of a
// box `stride` bytes apart, or across it, groups of eight steps of depth `stride` bytes apart and
// boxes `leading` bytes apart.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

constexpr int kWarpgroup = 4 * kWarp;
constexpr int kBoxCols = 64;         // 128 bytes
constexpr int kBoxAlignment = 1024;  // the period of the swizzle pattern

}  // namespace byhand

#if defined(__CUDACC__)
#include "gpu/hopper.cuh"
#else
#include "emulator/hopper.cuh"
#endif

namespace byhand {

BYHAND_DEVICE unsigned char* align_box(unsigned char* shared) {
    return shared + (0u - shared_address(shared)) % kBoxAlignment;
}

}  // namespace byhand
