#include "core/gemm.cuh"
#include "core/gemm_hopper.h"
#include "core/gemm_tiles.cuh"

namespace byhand {
namespace {

// So that rows and columns are ints.
int checked(int64_t n) {
    constexpr int64_t kMost = int64_t{1} << 30;
    if (n <= kMost) return static_cast<int>(n);
    throw std::invalid_argument(
        "the CUDA matrix multiply takes at most 2^30 rows or columns, got " + std::to_string(n));
}

template <class T>
Factor<T> factor(const Matrix<T>& m) {
    return {m.data, checked(m.rows), checked(m.cols), packable<T>(m.cols, m.data)};
}

template <class F, bool kLeftAcross, bool kRightAcross>
void launch_tiles(const char* name, const Product<F>& p, Stream stream) {
    using G = GemmTile<F, kLeftAcross, kRightAcross>;
    const int64_t rows = (p.M + G::kRows - 1) / G::kRows, cols = (p.N + G::kCols - 1) / G::kCols;
    if (rows * cols > kMaxGrid) throw std::invalid_argument(std::string(name) + ": too large");
    launch_shared(name, gemm_tiles<F, kLeftAcross, kRightAcross>, dim3(blocks_for(rows * cols, 1)),
                  dim3(G::kThreads), G::kShared, stream, p);
}

}  // namespace

template <class F>
void gemm(const char* name, Matrix<Stored<F>> left, Matrix<Stored<F>> right,
          const Epilogue<Stored<F>>& e, Stream stream) {
    using T = Stored<F>;
    // Of two transposed factors the product is made the other way round, and stored transposed.
    const bool transposed = left.transposed && right.transposed;
    if (transposed) {
        const Matrix<T> before = left;
        left = right.t(), right = before.t();
    }
    Product<F> p = {factor(left), factor(right), 0, 0, 0, e, false, transposed};
    p.M = left.transposed ? p.left.cols : p.left.rows;
    p.K = left.transposed ? p.left.rows : p.left.cols;
    p.N = right.transposed ? p.right.rows : p.right.cols;
    p.packed = !transposed && packable<T>(p.N, e.c, e.into, e.bias, e.add, e.activated, e.saved);
    if (p.M == 0 || p.N == 0) return;
    if constexpr (std::is_same_v<F, bf16>) {
        if (gemm_on_hopper(name, p, left.transposed, !right.transposed, stream)) return;
    }
    // A right factor that is not transposed lies across the depth.
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
