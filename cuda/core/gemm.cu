#include <utility>

#include "core/gemm.cuh"
#include "core/gemm_cublaslt.cuh"
#include "core/gemm_few.cuh"
#include "core/gemm_hopper.h"
#include "core/gemm_tiles.cuh"
#include "core/workspace.h"

namespace byhand {
namespace {

template <class T>
Factor<T> factor(const Matrix<T>& m) {
    const char* name = "matrix multiply";
    return {m.data, checked(name, "rows", m.rows), checked(name, "columns", m.cols),
            packable<T>(m.cols, m.data)};
}

// A product with few tiles and a large depth would leave multiprocessors idle, so its depth is cut
// into pieces (split-k). Their number depends on the shape alone: at most as many as 128
// multiprocessors run at the same time, each at least kLeast steps long.
template <class G>
int pieces_of(int64_t tiles, int steps) {
    constexpr int kEnough = 128 * G::kBlocks, kMost = 64, kLeast = 32;
    static_assert(sizeof(float) * kEnough * G::kRows * G::kCols <= kWorkspace);
    const int64_t blocks = std::min<int64_t>(kEnough / tiles, kMost);
    return static_cast<int>(std::max<int64_t>(std::min<int64_t>(blocks, steps / kLeast), 1));
}

template <class F, bool kLeftAcross, bool kRightAcross>
void launch_tiles(const char* name, Product<F> p, Stream stream) {
    using G = GemmTile<F, kLeftAcross, kRightAcross>;
    const int64_t rows = (p.M + G::kRows - 1) / G::kRows, cols = (p.N + G::kCols - 1) / G::kCols;
    if (rows * cols > kMaxGrid) throw std::invalid_argument(std::string(name) + ": too large");
    const auto launch_pieces = [&](int pieces) {
        launch_shared(name, gemm_tiles<F, kLeftAcross, kRightAcross>,
                      dim3(blocks_for(rows * cols, 1), pieces), dim3(G::kThreads), G::kShared,
                      stream, p);
    };
    const int steps = (p.K + G::kDeep - 1) / G::kDeep;
    int pieces = pieces_of<G>(rows * cols, steps);
    if (pieces == 1) return launch_pieces(1);
    p.steps = (steps + pieces - 1) / pieces;
    pieces = (steps + p.steps - 1) / p.steps;  // so that no piece is empty
    p.pieces = static_cast<float*>(workspace_of(name, stream));
    launch_pieces(pieces);
    const float* const sums = std::exchange(p.pieces, nullptr);
    const auto add = [&](auto width) {
        constexpr int V = decltype(width)::value;
        launch(name, gemm_add_pieces<F, kLeftAcross, kRightAcross, V>,
               dim3(blocks_for(int64_t{p.M} * p.N, 128 * V)), dim3(128), stream, p, sums, pieces);
    };
    if (p.packed) {
        add(std::integral_constant<int, kPack<Stored<F>>>{});
    } else {
        add(std::integral_constant<int, 1>{});
    }
}

template <class F>
bool takes_few(const Product<F>& p, bool left_across, bool right_across) {
    return !left_across && !right_across && p.M <= GemmFew::kRows && p.left.packed &&
           p.right.packed;
}

}  // namespace

template <class F>
void gemm(const char* name, Matrix<Stored<F>> left, Matrix<Stored<F>> right,
          const Epilogue<Stored<F>>& e, Stream stream) {
    using T = Stored<F>;
    if (gemm_by_cublaslt<F>(name, left, right, e, stream)) return;
    // With two transposed factors, the transposed product is computed and stored transposed.
    const bool transposed = left.transposed && right.transposed;
    if (transposed) {
        const Matrix<T> before = left;
        left = right.t(), right = before.t();
    }
    Product<F> p = {factor(left), factor(right), 0, 0, 0, e, false, transposed};
    p.M = left.transposed ? p.left.cols : p.left.rows;
    p.K = left.transposed ? p.left.rows : p.left.cols;
    p.N = right.transposed ? p.right.rows : p.right.cols;
    p.packed = !transposed &&
               packable<T>(p.N, e.c, e.into, e.bias, e.add, e.activated, e.saved, e.up, e.dup);
    if (p.M == 0 || p.N == 0) return;
    // A right factor that is not transposed is adjacent across the depth.
    if (takes_few(p, left.transposed, !right.transposed)) {
        launch(name, gemm_few<F>, dim3(blocks_for(p.N, GemmFew::kCols)), dim3(GemmFew::kThreads),
               stream, p);
        return;
    }
    if constexpr (std::is_same_v<F, bf16>) {
        if (gemm_on_hopper(name, p, left.transposed, !right.transposed, stream)) return;
    }
    if (left.transposed) {
        launch_tiles<F, true, true>(name, p, stream);
    } else if (right.transposed) {
        launch_tiles<F, false, false>(name, p, stream);
    } else {
        launch_tiles<F, false, true>(name, p, stream);
    }
}

#define BYHAND_GEMM(F)                                                       \
    template void gemm<F>(const char*, Matrix<Stored<F>>, Matrix<Stored<F>>, \
                          const Epilogue<Stored<F>>&, Stream)
BYHAND_GEMM(float);
BYHAND_GEMM(bf16);
BYHAND_GEMM(Rounded);

}  // namespace byhand
