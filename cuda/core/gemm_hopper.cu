#include <cstdlib>

#include "core/gemm_hopper.cuh"
#include "core/gemm_hopper.h"

namespace byhand {
namespace {

template <bool kLeftAcross, bool kRightAcross>
void launch_hopper(const char* name, const Product<bf16>& p, int64_t tiles, Stream stream) {
    using H = HopperTile;
    const auto map = [&](const Factor<bf16>& f, int box_rows) {
        return map_matrix(name, f.data, f.rows, f.cols, box_rows);
    };
    const auto kernel = gemm_hopper<kLeftAcross, kRightAcross>;
    const dim3 block(H::kThreads);
    const int64_t blocks = std::min(tiles, resident_blocks(name, kernel, block, H::kShared));
    launch_shared(name, kernel, dim3(blocks_for(blocks, 1)), block, H::kShared, stream, p,
                  map(p.left, PanelBoxes<kLeftAcross>::kBoxRows),
                  map(p.right, PanelBoxes<kRightAcross>::kBoxRows));
}

bool asked_for() {
    const char* const wish = std::getenv("BYHAND_GEMM_HOPPER");
    return wish != nullptr && std::string(wish) == "1";
}

}  // namespace

bool gemm_on_hopper(const char* name, const Product<bf16>& p, bool left_across, bool right_across,
                    Stream stream) {
    using H = HopperTile;
    const int64_t rows = (p.M + H::kRows - 1) / H::kRows, cols = (p.N + H::kCols - 1) / H::kCols;
    if (!asked_for() || !on_hopper() || !p.left.packed || !p.right.packed || p.K == 0 ||
        rows * cols > kMaxGrid) {
        return false;
    }
    if (left_across) {
        launch_hopper<true, true>(name, p, rows * cols, stream);
    } else if (right_across) {
        launch_hopper<false, true>(name, p, rows * cols, stream);
    } else {
        launch_hopper<false, false>(name, p, rows * cols, stream);
    }
    return true;
}

}  // namespace byhand
