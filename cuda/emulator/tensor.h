// What the CPU does for ldmatrix, mma.sync and cp.async, as the PTX manual lays the pieces out
// ("Matrix fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k8", "ldmatrix").
#pragma once

#include "emulator/shared.h"

namespace byhand::host {

// Lane 8 m + r brings the address of row r of matrix m, 8 x 8 elements of 16 bits; lane l gets two
// neighbours of each: elements 2 (l % 4) and the next of row l / 4, of the transpose if asked for.
void ldmatrix(const char* what, unsigned* r, int matrices, const void* row, bool transpose,
              Where where);

// d += a b over a whole warp: 16 x 16 times 16 x 8 in bfloat16, or 16 x 8 times 8 x 8 in tf32. Sums
// are taken exactly and rounded once; the hardware's are somewhat coarser.
void mma_bf16(float* d, const unsigned* a, const unsigned* b, Where where);
void mma_tf32(float* d, const unsigned* a, const unsigned* b, Where where);
unsigned to_tf32(float x);  // to nearest, ties away from 0

// Groups of copies of 16 bytes from global to shared memory. Those that are not waited for may have
// happened or not: Schedule::early says which.
void copy_async16(void* shared, const void* global, bool whole, Where where);
void copy_async_commit();
void copy_async_wait(int open);  // until at most that many of the newest groups are open

}  // namespace byhand::host
