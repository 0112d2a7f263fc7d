// The matrix multiply that linear layers, the feed-forward layer and matmul are made of.
//
//     product (M,N) = left (M,K) right (K,N), and an epilogue before it leaves the registers
//
// A block makes a tile of the product. Panels of both factors come through a ring in shared memory,
// by asynchronous copies that run several steps ahead of the tensor cores; a warp keeps a part of
// the tile in registers (Kerr et al. 2017, "CUTLASS: fast linear algebra in CUDA C++"). Each sum is
// made in one order that depends on the shape alone: where there are few tiles the depth is cut in
// pieces, whose sums are added one after the other.
#pragma once

#include "core/mma.cuh"

namespace byhand {

// A matrix of `rows` rows as it lies in memory. As a factor it may be transposed.
template <class T>
struct Matrix {
    const T* data;
    int64_t rows, cols;
    bool transposed = false;

    Matrix t() const { return {data, rows, cols, !transposed}; }
};

// Where a product goes, and what becomes of it on the way; all arrays are (M,N), but the bias.
template <class T>
struct Epilogue {
    enum class Gelu {
        none,
        forward,  // c is what it would be without; activated = gelu(c), of c as it is stored
        backward  // c = product * gelu'(saved); activated = gelu(saved)
    };

    T* c = nullptr;         // = product + bias + add; may be add
    float* into = nullptr;  // instead of c: += product
    const T* bias = nullptr;
    const T* add = nullptr;
    Gelu gelu = Gelu::none;
    bool tanh = false;  // which form of GELU
    T* activated = nullptr;
    const T* saved = nullptr;  // the pre-activation
};

// F: float, bf16 or Rounded. A product of two transposed factors has no GELU.
template <class F>
void gemm(const char* name, Matrix<Stored<F>> left, Matrix<Stored<F>> right,
          const Epilogue<Stored<F>>& epilogue, Stream stream);

// Calls f with a zero of what the factors of a product with x are made from: x as it is stored or,
// if it is float32 and `round` is asked for, rounded to bfloat16.
template <class F>
void for_factors(const Array& x, bool round, F&& f) {
    for_storage(x, [&](auto zero) {
        if (std::is_same_v<decltype(zero), float> && round) return f(Rounded{});
        f(zero);
    });
}

}  // namespace byhand
