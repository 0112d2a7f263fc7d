// The matrix multiply under linear layers, the feed-forward layer and matmul.
//
//     product (M,N) = left (M,K) right (K,N), and an epilogue while it is in registers
//
// A block computes a tile of the product. Panels of both factors are copied asynchronously into a
// ring buffer in shared memory, several steps ahead of the tensor cores; each warp keeps a part of
// the tile in registers (Kerr et al. 2017, "CUTLASS: fast linear algebra in CUDA C++"). The order
// of each sum depends on the shape alone: if there are few tiles, the depth is cut into pieces
// whose sums are added in order.
#pragma once

#include "core/mma.cuh"

namespace byhand {

// A row-major matrix of `rows` rows. As a factor it may be transposed.
template <class T>
struct Matrix {
    const T* data;
    int64_t rows, cols;
    bool transposed = false;

    Matrix t() const { return {data, rows, cols, !transposed}; }
};

// Where a product is stored, and the operations before that; all arrays but the bias are (M,N).
template <class T>
struct Epilogue {
    enum class Activation {
        none,
        forward,        // c as without it; activated = f(c), of c as it is stored
        backward,       // c = product * f'(saved); activated = f(saved)
        gated,          // c as without it; activated = f(saved) * c, of c as it is stored
        gated_backward  // c = product * up * f'(saved); dup = product * f(saved);
                        // activated = f(saved) * up
    };
    enum class Function { gelu, gelu_tanh, silu };

    T* c = nullptr;         // = product + bias + add; may be add
    float* into = nullptr;  // instead of c: += product
    const T* bias = nullptr;
    const T* add = nullptr;
    Activation activation = Activation::none;
    Function function = Function::gelu;
    T* activated = nullptr;
    const T* saved = nullptr;  // the pre-activation
    const T* up = nullptr;     // the factor of f(saved)
    T* dup = nullptr;          // its gradient
};

// F: float, bf16 or Rounded. A forward activation needs a right factor that is transposed, a
// backward one a right factor that is not, and both a left factor that is not.
template <class F>
void gemm(const char* name, Matrix<Stored<F>> left, Matrix<Stored<F>> right,
          const Epilogue<Stored<F>>& epilogue, Stream stream);

// Calls f with a zero of the type of the factors of a product with x: the storage type of x, or
// Rounded if that is float32 and `round` is true.
template <class F>
void for_factors(const Array& x, bool round, F&& f) {
    for_storage(x, [&](auto zero) {
        if (std::is_same_v<decltype(zero), float> && round) return f(Rounded{});
        f(zero);
    });
}

}  // namespace byhand
