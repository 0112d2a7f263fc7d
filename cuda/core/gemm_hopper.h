// The matrix multiply of gemm.cuh in bfloat16, for Hopper.
#pragma once

#include "core/gemm_tiles.cuh"

namespace byhand {

// Computes the product if the GPU, the factors and BYHAND_GEMM_HOPPER=1 allow it; returns whether
// it did.
bool gemm_on_hopper(const char* name, const Product<bf16>& p, bool left_across, bool right_across,
                    Stream stream);

}  // namespace byhand
