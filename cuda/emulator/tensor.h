// An emulation of ldmatrix, mma.sync and cp.async, with the layouts of the PTX manual ("Matrix
// fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k8", "ldmatrix").
#pragma once

#include "emulator/shared.h"

namespace byhand::emulator {

// Lane 8 m + r gives the address of row r of matrix m, 8 x 8 elements of 16 bits. Lane l gets two
// neighbours of each matrix: elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, of the transposed
// matrix if `transpose`.
void ldmatrix(const char* what, unsigned* r, int matrices, const void* row, bool transpose,
              Where where);

// d += a b over a whole warp: 16 x 16 times 16 x 8 in bfloat16, or 16 x 8 times 8 x 8 in tf32. Sums
// are truncated as accumulate.h says, or exact and rounded once, if the schedule says `nearest`.
void mma_bf16(float* d, const unsigned* a, const unsigned* b, Where where);
void mma_tf32(float* d, const unsigned* a, const unsigned* b, Where where);
unsigned to_tf32(float x);  // to nearest, ties away from 0

// Asynchronous copies of 16 bytes from global to shared memory, in groups. Schedule::early decides
// whether a copy is performed when it is issued or when it is waited for.
void copy_async16(void* shared, const void* global, bool whole, Where where);
void copy_async_commit();
void copy_async_wait(int open);  // until at most that many of the newest groups are open

}  // namespace byhand::emulator
