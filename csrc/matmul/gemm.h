// The matrix multiply under linear layers, the feed-forward layer and matmul.
//
//     C (M,N) = op(A) (M,K) op(B) (K,N), then an epilogue while the result is still in cache
//
// How it works, outside in (Goto and van de Geijn 2008, with the roles chosen for tall activations
// and small weights):
//
//   threads   C is cut into a grid of rectangles, one per thread, and each rectangle into chunks of
//             rows. A thread begins with the chunks of its own rectangle and then helps with the
//             others, so that one which the system holds back does not hold up the product. The
//             inner dimension K is never split between threads: they compute one block of it after
//             the other together.
//   blocks    A rectangle consists of strips of columns, as wide as a block of B, which is a strip
//             of a block of K, fits in a fixed part of the second-level cache.
//   panels    Each thread packs that block into panels of `kPanel` columns: the micro-kernel then
//             reads it sequentially, whatever the layout of B was. In a small rectangle an element
//             is read only a few times and packing costs more than it saves: rows of A are read in
//             place, except when A is transposed and there are many columns, and B is read in place
//             when there are few rows. In bf16 precision both operands are always packed: packing
//             rounds them, and puts two neighbours along k into one word (gemm_operand.h).
//   registers The micro-kernel keeps kRows x kPanel sums in registers, and for each k multiplies
//             kRows broadcast numbers of A with one row of the panel: many multiply-adds for few
//             loads.
//   tiles     In bf16 precision on a processor with AMX the sums lie in tile registers instead, and
//             the rows of A are packed along k (gemm_amx.h).
//
// The order of every sum depends on M, N and K alone: blocks of K have a fixed length, within a
// block each element of C is one chain of multiply-adds in the order of k, and block sums are added
// in order. So the result has the same bits for any number of threads.
//
// With few rows packing B would cost more than it saves; gemm_few_rows.h handles that case.
#pragma once

#include <cstdint>

#include "simd/vec.h"

namespace byhand {

// A matrix in either orientation: element (i, j) is data[i * row_stride + j * col_stride], and one
// of the strides is 1.
struct Matrix {
    const float* data;
    std::int64_t row_stride, col_stride;

    Matrix transposed() const { return {data, col_stride, row_stride}; }
    Matrix at(std::int64_t i, std::int64_t j) const {
        return {data + i * row_stride + j * col_stride, row_stride, col_stride};
    }
};

// A contiguous array of `cols` columns, as it is or transposed.
inline Matrix row_major(const float* data, std::int64_t cols) { return {data, cols, 1}; }

// What happens to an element after its sum, in this order: + bias, + add, then the activation, with
// a function f.
struct Epilogue {
    enum class Activation {
        none,
        forward,        // activated = f(c); c keeps the pre-activation
        backward,       // c = c * f'(saved), activated = f(saved)
        gated,          // activated = f(saved) * c; c keeps its value
        gated_backward  // activated = f(saved) * up, dup = c * f(saved), c = c * up * f'(saved)
    };
    enum class Function { gelu, gelu_tanh, silu };

    const float* bias = nullptr;  // (N)
    const float* add = nullptr;   // (M,N); C itself to accumulate into it
    Activation activation = Activation::none;
    Function function = Function::gelu;
    float* activated = nullptr;    // (M,N)
    const float* saved = nullptr;  // (M,N), the pre-activation
    const float* up = nullptr;     // (M,N), the factor of f(saved)
    float* dup = nullptr;          // (M,N), its gradient
};

// Uses slot 0 of each thread's scratch memory. C is contiguous and overlaps neither A nor B. With
// `bf16` the operands are rounded to bfloat16, products and sums stay in float32.
void gemm(float* c, Matrix a, Matrix b, std::int64_t M, std::int64_t N, std::int64_t K,
          const Epilogue& epilogue = {}, bool bf16 = false);

// sums (N) += the column sums of x (R,N), in fixed blocks of rows.
void add_column_sums(float* sums, const float* x, std::int64_t R, std::int64_t N);

// The parameters' gradients of y = x wT + b: dw (N,K) += dyT x and db (N) += column sums of dy,
// with dy (R,N) and x (R,K). Null means frozen.
void add_linear_gradients(float* dw, float* db, const float* dy, const float* x, std::int64_t R,
                          std::int64_t N, std::int64_t K, bool bf16);

}  // namespace byhand
