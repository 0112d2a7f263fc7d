// The words of a matrix kernel for Hopper (compute capability 9.0), beside those of cuda.cuh and
// under two faces like them: gpu/hopper.cuh and emulator/hopper.cuh.
//
//   where they exist  kHopper: whether this pass of the compiler makes code for sm_90a, or for the
//                     CPU. A kernel is empty without: if constexpr (kHopper)
//                     on_hopper(): whether the current device runs that code
//   registers         give_registers<n>() take_registers<n>(): what a thread has from here on, by
//                     whole warpgroups, which are four warps from a multiple of four on
//   matrices          TensorMap, a __grid_constant__ parameter of a kernel: a bfloat16 matrix in
//                     global memory, cut into boxes of 64 columns
//                     map_matrix(name, data, rows, cols, rows of a box): data aligned to 16, cols
//                     a multiple of 8
//                     copy_box_async(shared, map, row, col, barrier): the box that begins there,
//                     zeros outside of the matrix; `shared` aligned to 1024; one thread says it
//   phase barriers    PhaseBarrier, in shared memory. A phase ends when all arrivals have come and
//                     all bytes that were announced; phases are numbered from 0
//                     open_barrier(b, arrivals) by one thread; that thread share_barriers() after
//                     the last of them, and a sync_block() before anyone uses them
//                     arrive(b) arrive_and_expect(b, bytes)
//                     wait_phase(b, parity): until the phase of that parity has ended; of a new
//                     barrier, the one of parity 1 has
//   products          operand(shared, leading, stride): what describes a factor to the tensor cores
//                     product_async<left across, right across>(d, left, right) by a warpgroup:
//                     d (64,128) += left (64,16) right (16,128), warp w of it has rows 16 w and on,
//                     held like Sums of mma.cuh; it reads shared memory and d later
//                     open_products(d) before the first, and after d was touched
//                     close_products(): those since the last one are a group
//                     wait_products<newest groups that may be open>()
//                     wait_all_products(d): and d can be read
//
// A box lies in shared memory as rows of 128 bytes. Of row r the 16 bytes c are in place c ^ r % 8:
// eight rows are read at once from different banks ("128-byte swizzle" in the PTX manual, 5.5.7).
// A factor lies along the depth of the product, eight rows of a box `stride` bytes apart, or across
// it, eight steps of depth `stride` bytes apart and boxes `leading` bytes apart.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

constexpr int kWarpgroup = 4 * kWarp;
constexpr int kBoxCols = 64;         // 128 bytes
constexpr int kBoxAlignment = 1024;  // where the pattern of a box begins again

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
